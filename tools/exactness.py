"""Proves that decoding gives the same codes however sums are computed: threads, oneDNN, instruction sets, torch versions.

    python tools/exactness.py --images ../shared/data/kodak --qualities 20,50,85 [--python OTHER/bin/python ...]

The first and the last variant encode all pictures, and every variant decodes the files of both; the codes (the
quantised latent) must agree bit for bit, and the pixels (compared at the middle quality) within one level. `--python` adds interpreters with other torch
releases; they need only torch, numpy, pillow, constriction, safetensors, typer and rich. Exit code 1 on any mismatch.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def work(arguments: argparse.Namespace) -> None:
    """One variant's share, in a process of its own: encode, or decode the files in `--files`."""
    sys.path.insert(0, str(ROOT))
    import numpy as np
    import torch

    from looc_codec import codec, container, images

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.backends.mkldnn.enabled = not arguments.no_mkldnn
    model = codec.load_model(arguments.model, device=arguments.device)
    result = {"torch": torch.__version__, "threads": torch.get_num_threads(), "capability": torch.backends.cpu.get_cpu_capability(), "codes": {}}
    if arguments.work == "encode":
        for path in sorted(Path(arguments.images).glob("*.png"))[: arguments.limit]:
            picture = images.read_picture(path)
            for quality in arguments.qualities:
                data = codec.compress_picture(picture, quality=quality, model=model)
                (Path(arguments.files) / f"{path.stem}-q{quality}.looc").write_bytes(data)
    else:
        for path in sorted(Path(arguments.files).glob("*.looc")):
            file = container.unpack(path.read_bytes())
            grid = codec.grid_size(file.width, file.height)
            latent_hat = codec.decode_latent(file.segments, file.code_checksum, *grid, file.quality, model)
            if file.quality == sorted(arguments.qualities)[len(arguments.qualities) // 2]:
                rgb = codec.synthesise(latent_hat, (file.height, file.width), file.quality, model)
                np.save(Path(arguments.pixels) / f"{path.stem}.npy", rgb)
            result["codes"][path.stem] = hashlib.sha256(latent_hat.numpy().tobytes()).hexdigest()
    print(json.dumps(result))


def launch(variant: dict, arguments: argparse.Namespace, mode: str, files: Path, pixels: Path) -> dict:
    command = [
        variant["python"], __file__, "--work", mode, "--images", arguments.images, "--files", str(files), "--pixels", str(pixels),
        "--model", arguments.model, "--qualities", ",".join(map(str, arguments.qualities)), "--device", variant.get("device", "cpu"),
    ]
    if arguments.limit:
        command += ["--limit", str(arguments.limit)]
    command += ["--threads", str(variant.get("threads", 0))] + (["--no-mkldnn"] if variant.get("no_mkldnn") else [])
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | variant.get("environment", {}), check=False)
    if done.returncode:
        raise SystemExit(f"variant {variant['name']} failed to {mode}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", default="../shared/data/kodak")
    parser.add_argument("--qualities", type=lambda text: [int(part) for part in text.split(",")], default=[20, 50, 85])
    parser.add_argument("--limit", type=int, help="only the first so many pictures")
    parser.add_argument("--model", default="photo")
    parser.add_argument("--python", action="append", default=[], help="another interpreter, with another torch release")
    parser.add_argument("--cuda", action="store_true", help="also run the transforms on a GPU")
    parser.add_argument("--quick", action="store_true", help="only two variants")
    parser.add_argument("--out", type=Path, help="write the table as JSON here")
    for name in ("--work", "--files", "--pixels", "--device"):
        parser.add_argument(name, default="cpu" if name == "--device" else None, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--no-mkldnn", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments)
        return

    import numpy as np

    here = sys.executable
    variants = [
        {"name": "1 thread", "python": here, "threads": 1},
        {"name": "2 threads", "python": here, "threads": 2},
        {"name": "2 threads, oneDNN off", "python": here, "threads": 2, "no_mkldnn": True},
        {"name": "AVX2 only", "python": here, "threads": 2, "environment": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}},
        {"name": "no AVX", "python": here, "threads": 1, "environment": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}},
        *({"name": f"other interpreter {number + 1}", "python": python, "threads": 2} for number, python in enumerate(arguments.python)),
    ]
    if arguments.cuda:
        variants.append({"name": "CUDA transforms", "python": here, "device": "cuda"})
    if arguments.quick:
        variants = variants[1:3]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        files = {}
        writers = [variants[0], variants[-1]]
        for variant in writers:
            files[variant["name"]] = home / f"files {variant['name']}"
            files[variant["name"]].mkdir()
            launch(variant, arguments, "encode", files[variant["name"]], home)
        rows, mismatches = [], 0
        for writer in writers:
            reference_codes, reference_pixels = None, None
            for reader in variants:
                pixels = home / f"pixels {writer['name']} {reader['name']}"
                pixels.mkdir()
                result = launch(reader, arguments, "decode", files[writer["name"]], pixels)
                if reference_codes is None:
                    reference_codes, reference_pixels = result["codes"], pixels
                wrong = [name for name, digest in result["codes"].items() if digest != reference_codes[name]]
                difference = max(
                    int(np.abs(np.load(path).astype(np.int16) - np.load(reference_pixels / path.name)).max()) for path in pixels.glob("*.npy")
                )
                mismatches += len(wrong)
                row = {
                    "encoded": writer["name"], "decoded": reader["name"], "torch": result["torch"], "capability": result["capability"],
                    "files": len(result["codes"]), "code_mismatches": len(wrong), "largest_pixel_difference": difference,
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
