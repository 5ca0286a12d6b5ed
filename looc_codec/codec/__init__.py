"""The codec: pixels to codes and back with one model, on numpy, constriction and ONNX Runtime. No torch.

- `model.py`: the immutable model: integers, tables, graphs; its weights file.
- `engine.py`: runs a model's graphs with ONNX Runtime.
- `prior.py`, `details.py`: visit every unit in coding order; encoder and decoder share them.
- `search.py`, `viterbi.py`: the encoder's choice of codes.
- `tiles.py`, `transforms.py`: analysis and synthesis, tile by tile.
- `wiener.py`: fits and applies the picture's own filter.
- `encoder.py`, `decoder.py`: the two directions.
- `effort.py`: better codes by the gradient of the synthesis (`--effort`; the only module that needs torch).
- `rate_control.py`: the file of a wanted size, rate or PSNR.
"""
