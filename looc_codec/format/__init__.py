"""The format wing: everything that decides what the bytes of a .looc file mean. Exact on every machine; no torch.

- `constants.py`: the numbers that decide how codes are read, in one place, with their digest.
- `container.py`: the file: magic, header, chunks, segments, checksums. Bytes only.
- `order.py`: coding order: groups, levels, positions, steps, units; and the table row of a unit.
- `trellis.py`: the state machine along paths of units.
- `entropy.py`: range coder and checksum of codes.
- `codes.py`: tables of a model, and which symbols stand for a unit.
- `filter.py`: the picture's own filter as bytes.
"""
