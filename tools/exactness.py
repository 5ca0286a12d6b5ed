"""Proves that decoding gives the same codes however sums are computed: threads, graph optimisation, instruction sets, releases.

    python tools/exactness.py --images ../shared/data/kodak --levels 20,50,85 [--python OTHER/bin/python ...]

The first and the last variant encode all pictures, and every variant decodes the files of both; the codes (the quantised latent) must
agree bit for bit, and the pixels (compared at the middle level) within one step of 8 bits. `--python` adds interpreters with other releases of
ONNX Runtime; they need onnxruntime, numpy, pillow, constriction, safetensors, typer and rich. `--emulate CPU` adds one that runs on an
emulated processor (Debian's qemu-user; `Haswell` has AVX2 and no AVX-512, `Nehalem` no AVX), which is some 30 times slower: use `--limit`
and `--crop`. `--files DIR` adds files that another state of looc wrote with the same integers; the fingerprint that they carry is
replaced, and their own code checksums tell whether their codes are read as they were written. Exit code 1 on any mismatch.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import dataclasses

import numpy as np
from PIL import Image

from looc_codec import api
from looc_codec.exactness import AVX2_ENVIRONMENT, NO_AVX_ENVIRONMENT, Setting, Variant, launch
from looc_codec.format import container


def relabelled(source: Path, target: Path, fingerprint: bytes) -> Path:
    """A file with the fingerprint of another model of the same integers."""
    target.write_bytes(container.pack(dataclasses.replace(container.unpack(source.read_bytes()), fingerprint=fingerprint)))
    return target


def cropped(source: Path, target: Path, side: int | None) -> Path:
    """The middle of a picture, or the picture where no side is given."""
    with Image.open(source) as image:
        if side is not None:
            left, top = max(0, (image.width - side) // 2), max(0, (image.height - side) // 2)
            image = image.crop((left, top, min(image.width, left + side), min(image.height, top + side)))
        image.convert("RGB").save(target)
    return target


def pixel_differences(found: Path, expected: Path) -> tuple[int, int, int]:
    """The largest difference of stored pixels in levels, how many samples differ, and how many there are."""
    largest = differing = total = 0
    for path in found.glob("*.npy"):
        difference = np.abs(np.load(path).astype(np.int16) - np.load(expected / path.name))
        largest, differing, total = max(largest, int(difference.max())), differing + int((difference > 0).sum()), total + difference.size
    return largest, differing, total


def variants_of(arguments: argparse.Namespace) -> list[Variant]:
    one, two = Setting("1 thread", threads=1), Setting("2 threads", threads=2)
    found = [
        Variant("1 thread", (one,)),
        Variant("2 threads", (two,)),
        Variant("2 threads, graphs as they are", (dataclasses.replace(two, optimise=False),)),
        Variant("numpy limited to AVX2", (two,), AVX2_ENVIRONMENT),
        Variant("numpy without AVX", (one,), NO_AVX_ENVIRONMENT),
        *(Variant(f"other interpreter {number + 1}", (two,), python=(python,)) for number, python in enumerate(arguments.python)),
        *(
            Variant(f"emulated {processor}", (one,), python=(arguments.emulator, "-cpu", processor, sys.executable))
            for processor in arguments.emulate
        ),
    ]  # fmt: skip
    if arguments.device:
        found.append(Variant(f"transforms on {arguments.device}", (Setting(arguments.device, device=arguments.device),)))
    return found[1:3] if arguments.quick else found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=ROOT.parent / "shared/data/kodak")
    parser.add_argument("--levels", type=lambda text: [int(part) for part in text.split(",")], default=[20, 50, 85])
    parser.add_argument("--limit", type=int, help="only the first so many pictures")
    parser.add_argument("--crop", type=int, help="only the middle so many pixels each way")
    parser.add_argument("--model", default="photo-psnr")
    parser.add_argument("--python", action="append", default=[], help="another interpreter, with another release of ONNX Runtime")
    parser.add_argument("--emulate", action="append", default=[], metavar="CPU", help="also on this emulated processor")
    parser.add_argument("--emulator", default="qemu-x86_64")
    parser.add_argument("--files", type=Path, help="folder of .looc files that another state of looc wrote")
    parser.add_argument("--device", help="also run the transforms there, for example cuda")
    parser.add_argument("--quick", action="store_true", help="only two variants")
    parser.add_argument("--out", type=Path, help="write the table as JSON here")
    arguments = parser.parse_args()
    middle = sorted(arguments.levels)[len(arguments.levels) // 2]
    variants, rows, mismatches = variants_of(arguments), [], 0
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "pictures").mkdir()
        sources = sorted(arguments.images.glob("*.png"))[: arguments.limit]
        pictures = [cropped(path, home / "pictures" / path.name, arguments.crop) for path in sources]
        written: dict[str, list[Path]] = {}
        for writer in (variants[0], variants[-1]):
            launch(writer, home / writer.name, model=arguments.model, pictures=pictures, levels=arguments.levels)
            written[writer.name] = sorted((home / writer.name).glob("*.looc"))
        if arguments.files:
            (home / "given").mkdir()
            fingerprint = api.load_model(arguments.model).fingerprint
            written["files given"] = [
                relabelled(path, home / "given" / path.name, fingerprint) for path in sorted(arguments.files.glob("*.looc"))
            ]
        for writer, files in written.items():
            reference_codes: dict[str, str] = {}
            reference_pixels = home
            for reader in variants:
                pixels = home / f"pixels {writer} {reader.name}"
                result = launch(reader, pixels, model=arguments.model, files=files, pixels_level=middle)
                codes = result["settings"][0]["codes"]
                if not reference_codes:
                    reference_codes, reference_pixels = codes, pixels
                wrong = [name for name, digest in codes.items() if digest != reference_codes[name]]
                largest, differing, samples = pixel_differences(pixels, reference_pixels)
                mismatches += len(wrong)
                row = {
                    "encoded": writer, "decoded": reader.name, "onnxruntime": result["runtime"], "numpy": result["numpy"], "files": len(codes),
                    "code_mismatches": len(wrong), "largest_pixel_difference": largest, "samples_differing": differing, "samples": samples,
                }  # fmt: skip
                rows.append(row)
                print(
                    f"{writer:24} -> {reader.name:30} onnxruntime {result['runtime']:8} {len(codes)} files, {len(wrong)} mismatches,"
                    f" pixels within {largest}, {differing} of {samples} samples differ",
                    flush=True,
                )
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
