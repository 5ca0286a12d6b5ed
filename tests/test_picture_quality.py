"""The quality of restored pictures in formats that have one."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, features
from test_cli import photo

from looc_codec.images import PILLOW_FORMATS, QUALITY_FORMATS, picture_from_pillow, write_picture


def written(suffix: str, quality: int | None) -> bytes:
    file = io.BytesIO()
    write_picture(picture_from_pillow(photo()), file, suffix, quality=quality)
    return file.getvalue()


def error_of(data: bytes) -> float:
    with Image.open(io.BytesIO(data)) as image:
        return float(np.abs(np.asarray(image.convert("RGB"), np.float32) - np.asarray(photo(), np.float32)).mean())


@pytest.mark.parametrize("suffix", sorted(suffix for suffix, kind in PILLOW_FORMATS.items() if kind in QUALITY_FORMATS))
def test_a_lower_quality_is_smaller_and_worse(suffix):
    if suffix == "avif" and not features.check("avif"):
        pytest.skip("Pillow without AVIF")
    low, high, usual = written(suffix, 20), written(suffix, 80), written(suffix, None)
    assert len(low) < len(high) < len(usual)
    assert error_of(low) > error_of(high) > error_of(usual)


@pytest.mark.parametrize("suffix", sorted(suffix for suffix, kind in PILLOW_FORMATS.items() if kind not in QUALITY_FORMATS))
def test_lossless_formats_stay_so(suffix):
    assert error_of(written(suffix, 20)) == 0
