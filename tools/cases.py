"""Whether every file that people met wrong results with is read right: one line a file, status 1 if one is not.

    python tools/cases.py [--folder ../shared/cases]

The right values are those of the folder's README. JPEG XL needs pillow-jxl-plugin.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from PIL import Image

from looc_codec import images
from looc_codec.errors import ImageError


def exif_of(picture: images.Picture) -> Image.Exif:
    exif = Image.Exif()
    exif.load(b"Exif\0\0" + picture.exif)
    return exif


def sideways(picture: images.Picture) -> bool:
    """128 x 96 after turning once, with EXIF that says so and has no thumbnail."""
    exif = exif_of(picture)
    sub = exif.get_ifd(0x8769)
    sizes = sub.get(0xA002, 128), sub.get(0xA003, 96)
    return (
        (picture.width, picture.height) == (128, 96)
        and exif[0x0112] == 1
        and sizes == (128, 96)
        and not exif.get_ifd(0x0201)
    )


def notes(picture: images.Picture, words: str) -> bool:
    return any(words in notice for notice in picture.notices)


RIGHT: dict[str, Callable[[images.Picture], bool] | str] = {
    "cjxl6.jxl": sideways,
    "f101.tif": lambda picture: abs(picture.rgb.mean() - 94.8) < 0.5 and notes(picture, "1 is taken as white"),
    "miw16.tif": lambda picture: (picture.rgb == 22).all(),
    "raw.dng": "camera raw file",
    "orient6thumb.jpg": sideways,
    "im_rawexif.png": sideways,
    "cicp_pq.png": lambda picture: notes(picture, "wide-gamut or HDR"),
    "iptc.jpg": lambda picture: all(word in picture.xmp for word in (b"Wedding", b"The caption", b"keyword")),
    "com.jpg": lambda picture: exif_of(picture)[0x010E] == "grandma 1950",
    "text.png": lambda picture: exif_of(picture)[0x010E] == "grandma" and notes(picture, "text 'parameters'"),
    "dpi.png": lambda picture: exif_of(picture)[0x011A] == exif_of(picture)[0x011B] == 300,
    "extxmp.jpg": lambda picture: notes(picture, "extended XMP") and b"HasExtendedXMP" not in picture.xmp,
    "ultrahdr.jpg": lambda picture: (
        notes(picture, "gain map") and not any(word in picture.xmp for word in (b"hdrgm", b"GainMap"))
    ),
}
"""What has to hold of each file's picture, or the words of its refusal."""


def outcome(path: Path) -> tuple[bool, str]:
    """Whether a file is read right, and what came of it in words."""
    right = RIGHT[path.name]
    try:
        picture = images.read_picture(path, name=path.name)
    except ImageError as error:
        return isinstance(right, str) and right in str(error), str(error)
    parts = [
        f"{name} {len(data)} bytes" for name in ("icc", "exif", "xmp") if (data := getattr(picture, name)) is not None
    ]
    words = ", ".join([f"{picture.width}x{picture.height}", f"mean {picture.rgb.mean():.1f}", *parts])
    return not isinstance(right, str) and bool(right(picture)), "; ".join([words, *picture.notices])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT.parent / "shared/cases")
    folder = parser.parse_args().folder
    missing = [name for name in RIGHT if not (folder / name).is_file()]
    if missing:
        parser.error(f"{folder} lacks {', '.join(missing)}")
    wrong = 0
    for name in RIGHT:
        right, words = outcome(folder / name)
        wrong += not right
        print(f"{'right' if right else 'WRONG'}  {name}: {words}")
    print(f"{len(RIGHT) - wrong} of {len(RIGHT)} right")
    raise SystemExit(wrong > 0)


if __name__ == "__main__":
    main()
