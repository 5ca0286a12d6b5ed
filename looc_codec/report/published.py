"""Curves that others published on the 24 Kodak pictures, as a small data file with the source of every point."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from looc_codec import metrics
from looc_codec.errors import LoocError
from looc_codec.report.summary import Curve, CurvePoint

NAME = "kodak-published"
KODAK_SHA256 = "97cedfb6cb080d549029eaa0e8e5793099084ceb0f732ce36031cf4848425469"
"""Digest of the 24 pictures' pixel digests in the order of their names."""

LABELS = {
    "bpg444": "BPG 4:4:4",
    "av1": "AV1 still (libaom, 4:4:4)",
    "vtm": "VVC intra (VTM)",
    "bmshj2018-hyperprior": "Ballé 2018 hyperprior",
    "mbt2018-mean": "Minnen 2018 mean-scale",
    "cheng2020-anchor": "Cheng 2020",
    "elic2022": "ELIC 2022",
    "dcae": "DCAE 2025",
    "cool-chic-v5.0": "Cool-chic 5.0",
}


class PublishedError(LoocError):
    """Published curves asked for beside pictures that they were not made of."""


def require_kodak(pictures: Sequence[Mapping[str, Any]]) -> None:
    """Refuses anything but the 24 Kodak pictures, since the published curves are their means.

    Raises:
        PublishedError: pictures are missing, too many, or have other pixels.
    """
    ordered = sorted(pictures, key=lambda picture: picture["name"])
    digest = hashlib.sha256("".join(picture["sha256"] for picture in ordered).encode()).hexdigest()
    if digest != KODAK_SHA256:
        raise PublishedError(
            f"--against {NAME} fits only a folder of the 24 Kodak pictures (kodim01 to kodim24), whole and unchanged; leave it out"
        )


def published_curves() -> dict[str, list[Curve]]:
    """Curves by metric key (`psnr_db`, `ms_ssim_db`); a codec without a published metric has no curve in it."""
    rows: dict[str, list[dict[str, str]]] = {}
    text = resources.files("looc_codec.report").joinpath("kodak_published.csv").read_text(encoding="utf-8")
    for row in csv.DictReader(text.splitlines()):
        rows.setdefault(row["codec"], []).append(row)
    curves: dict[str, list[Curve]] = {"psnr_db": [], "ms_ssim_db": []}
    for name, own in rows.items():
        for key, values in (
            ("psnr_db", [row["psnr_rgb_db"] and float(row["psnr_rgb_db"]) for row in own]),
            ("ms_ssim_db", [row["msssim"] and metrics.ms_ssim_db(float(row["msssim"])) for row in own]),
        ):
            points = tuple(
                CurvePoint(row["quality"], float(row["bpp"]), value) for row, value in zip(own, values, strict=True) if value != ""
            )
            if points:
                curves[key].append(Curve(name, f"{LABELS[name]} (published)", points, own[0]["source"]))
    return curves
