"""The table of docs/ODD_FILES.md: what becomes of every strange picture file, from reading to a .looc file and back.

    python tools/odd_files.py [--folder ../shared/data/odd] [--out docs/ODD_FILES.md]

Files are compressed with the shipped weights as `looc compress` does and decoded again; the result must have the size,
alpha and metadata of what was read. Anything but a picture or an error of looc's own ends the run with its trace.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np

from looc_codec import api, images
from looc_codec.codec.model import CodecModel
from looc_codec.errors import ImageError

OPENING = """# Strange files

What `looc compress` does with {count} odd picture files (the test set `odd`): {kept} are kept, {converted} are converted with a notice, {refused} are refused
with one sentence. Every kept or converted file was compressed with the shipped weights and decoded again, with the same size, transparency
and metadata. Made by `python tools/odd_files.py --out docs/ODD_FILES.md`; `tests/test_images.py` runs over the same files where they
are at hand and allows nothing but a picture or an `ImageError`. JPEG XL was read with pillow-jxl-plugin.

| file | result | size, parts | sentence |
|---|---|---|---|
"""


def row(path: Path, model: CodecModel) -> tuple[str, str]:
    """Result ("kept", "converted" or "refused") and table row of one file."""
    try:
        picture = images.read_picture(path, name=path.name)
    except ImageError as error:
        return "refused", f"| {path.name} | refused | | {error} |"
    back = api.restore_picture(api.compress_picture(picture, level=50, model=model).data, model=model)
    same = back.rgb.shape == picture.rgb.shape and (back.icc, back.exif, back.xmp) == (picture.icc, picture.exif, picture.xmp)
    if not same or not np.array_equal(back.alpha, picture.alpha):
        raise SystemExit(f"{path.name} does not come back as it went in")
    parts = "+".join(name for name in ("alpha", "icc", "exif", "xmp") if getattr(picture, name) is not None)
    result = "converted" if picture.notices else "kept"
    return result, f"| {path.name} | {result} | {picture.width}x{picture.height} {parts} | {'; '.join(picture.notices)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT.parent / "shared/data/odd")
    parser.add_argument("--out", type=Path, help="write the page here; without it, print it")
    arguments = parser.parse_args()
    paths = sorted(path for path in arguments.folder.iterdir() if path.is_file() and path.suffix != ".md")
    if not paths:
        parser.error(f"{arguments.folder} holds no files")
    model = api.load_model()
    rows = [row(path, model) for path in paths]
    counts = {result: sum(found == result for found, _ in rows) for result in ("kept", "converted", "refused")}
    page = OPENING.format(count=len(rows), **counts) + "\n".join(line for _, line in rows) + "\n"
    if arguments.out:
        arguments.out.write_text(page)
        print(f"{len(rows)} files: " + ", ".join(f"{number} {result}" for result, number in counts.items()))
    else:
        print(page, end="")


if __name__ == "__main__":
    main()
