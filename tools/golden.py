"""Writes the golden file of the shipped weights anew; run it whenever they change.

    python tools/golden.py [weights/looc-photo-psnr.safetensors]
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from looc_codec.selftest import write_golden

if __name__ == "__main__":
    for path in write_golden(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "weights" / "looc-photo-psnr.safetensors"):
        print(f"{path}: {path.stat().st_size} bytes")
