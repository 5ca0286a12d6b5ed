"""Fits the shared codebook and its tables of a weights file anew, as after training; networks, kernels and everything else stay as they are.

    python tools/refit_codes.py runs/in.safetensors runs/out.safetensors [--data ../shared/data/train]

For a change of the trellis, say: what a state machine chooses is what the tables should count.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def main() -> None:
    from looc_codec.data import PictureStore, load_pictures
    from looc_codec.codec.model import read_model
    from looc_codec.training.run import COUNT_BATCHES, export_weights, fit_codes, model_of

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data/train")
    parser.add_argument("--more", type=int, default=COUNT_BATCHES, help="batches of 8 crops that are counted at the end")
    arguments = parser.parse_args()
    if arguments.out.exists():
        # The tensors of weights are read from their file when they are needed.
        parser.error(f"{arguments.out} exists; give another name")
    torch.set_num_threads(1)
    source = read_model(arguments.weights)
    model = model_of(arguments.weights).requires_grad_(False)
    core = {name: value for name, value in source.core.items() if not name.startswith("codebook.")}

    def report(kind: str, figures: dict) -> None:
        if figures["batch"] % 20 == 0:
            print(kind, figures, flush=True)

    store = PictureStore(load_pictures(arguments.data, min_side=256))
    found = fit_codes(model, store, "cpu", report, more=arguments.more)
    core |= {f"codebook.{name}": value for name, value in model.codebook.export().items()}
    exported = export_weights(model, arguments.out, source.description, core)
    print(f"{arguments.out}: {exported.fingerprint.hex()}, {found.bits_per_unit:.4f} bits a unit under the tables before the last")


if __name__ == "__main__":
    main()
