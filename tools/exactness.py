"""Proves that decoding gives the same codes however sums are computed: threads, oneDNN, instruction sets, torch versions.

    python tools/exactness.py --images ../shared/data/kodak --qualities 20,50,85 [--python OTHER/bin/python ...]

The first and the last variant encode all pictures, and every variant decodes the files of both; the codes (the
quantised latent) must agree bit for bit, and the pixels (compared at the middle quality) within one level. `--python` adds interpreters with other torch
releases; they need only torch, numpy, pillow, constriction, safetensors, typer and rich. Exit code 1 on any mismatch.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np

from looc_codec.exactness import AVX2_ENVIRONMENT, NO_AVX_ENVIRONMENT, Setting, Variant, largest_difference, launch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=ROOT.parent / "shared/data/kodak")
    parser.add_argument("--qualities", type=lambda text: [int(part) for part in text.split(",")], default=[20, 50, 85])
    parser.add_argument("--limit", type=int, help="only the first so many pictures")
    parser.add_argument("--model", default="photo")
    parser.add_argument("--python", action="append", default=[], help="another interpreter, with another torch release")
    parser.add_argument("--cuda", action="store_true", help="also run the transforms on a GPU")
    parser.add_argument("--quick", action="store_true", help="only two variants")
    parser.add_argument("--out", type=Path, help="write the table as JSON here")
    arguments = parser.parse_args()
    pictures = sorted(arguments.images.glob("*.png"))[: arguments.limit]
    middle = sorted(arguments.qualities)[len(arguments.qualities) // 2]
    two = Setting("2 threads", threads=2)
    variants = [
        Variant("1 thread", (Setting("1 thread", threads=1),)),
        Variant("2 threads", (two,)),
        Variant("2 threads, oneDNN off", (Setting("2 threads, oneDNN off", threads=2, onednn=False),)),
        Variant("AVX2 only", (two,), AVX2_ENVIRONMENT),
        Variant("no AVX", (Setting("1 thread", threads=1),), NO_AVX_ENVIRONMENT),
        *(Variant(f"other interpreter {number + 1}", (two,), python=python) for number, python in enumerate(arguments.python)),
    ]
    if arguments.cuda:
        variants.append(Variant("CUDA transforms", (Setting("CUDA", device="cuda"),)))
    if arguments.quick:
        variants = variants[1:3]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        writers = [variants[0], variants[-1]]
        for writer in writers:
            launch(writer, home / writer.name, model=arguments.model, pictures=pictures, qualities=arguments.qualities)
        rows, mismatches = [], 0
        for writer in writers:
            files = sorted((home / writer.name).glob("*.looc"))
            reference_codes, reference_pixels = None, None
            for reader in variants:
                pixels = home / f"pixels {writer.name} {reader.name}"
                result = launch(reader, pixels, model=arguments.model, files=files, pixels_quality=middle)
                codes = result["settings"][0]["codes"]
                if reference_codes is None:
                    reference_codes, reference_pixels = codes, pixels
                wrong = [name for name, digest in codes.items() if digest != reference_codes[name]]
                difference = max(largest_difference(np.load(path), np.load(reference_pixels / path.name)) for path in pixels.glob("*.npy"))
                mismatches += len(wrong)
                row = {
                    "encoded": writer.name, "decoded": reader.name, "torch": result["torch"], "capability": result["capability"],
                    "files": len(codes), "code_mismatches": len(wrong), "largest_pixel_difference": difference,
                }
                rows.append(row)
                print(f"{row['encoded']:24} -> {row['decoded']:24} torch {row['torch']:12} {row['capability']:8} {row['files']} files, "
                      f"{row['code_mismatches']} mismatches, pixels within {difference}", flush=True)
                if pixels != reference_pixels:
                    for path in pixels.glob("*.npy"):
                        path.unlink()
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(rows, indent=1) + "\n")
    print(f"{len(rows)} pairs, {sum(row['files'] for row in rows)} decodes, {mismatches} mismatches")
    raise SystemExit(1 if mismatches else 0)


if __name__ == "__main__":
    main()
