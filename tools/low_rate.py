"""The front picture at very low rates: one picture in some kilobytes by looc, WebP, AVIF and JPEG XL.

    python tools/low_rate.py ../shared/data/kodak/kodim04.png --bytes 3400 --at 96,56 --side 320 --out docs/results/low-rate.png

Every other codec gets at least as many bytes as looc; where its smallest file has more, that one is shown. Needs `pip install '.[report]'`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np
from PIL import Image

from looc_codec import api
from looc_codec.report.equal_bytes import versions_at_equal_bytes
from looc_codec.report.front import front_picture, write_front

CODEC_NAMES = ("looc", "webp", "avif", "jxl")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--bytes", type=int, default=3400, dest="limit_bytes", help="about so many for looc")
    parser.add_argument("--at", default="0,0", metavar="X,Y", help="left and top of the detail that is shown")
    parser.add_argument("--side", type=int, default=320, help="of the detail, in pixels")
    parser.add_argument("--model", default=api.DEFAULT_MODEL)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    rgb = np.asarray(Image.open(arguments.picture).convert("RGB"))
    left, top = map(int, arguments.at.split(","))
    bits_per_pixel = 8 * arguments.limit_bytes / (rgb.shape[0] * rgb.shape[1])
    versions = versions_at_equal_bytes(rgb, dict.fromkeys(CODEC_NAMES, arguments.model), bits_per_pixel)
    for version in versions:
        print(f"{version.label}: quality {version.quality}, {version.data_bytes} bytes, {version.psnr_db:.2f} dB")
    write_front(front_picture(rgb, versions, side=arguments.side, left=left, top=top), arguments.out)


if __name__ == "__main__":
    main()
