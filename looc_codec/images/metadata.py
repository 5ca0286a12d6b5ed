"""The metadata of an image as one EXIF block and one XMP packet, which agree with its upright pixels."""

from __future__ import annotations

from PIL import Image

from looc_codec.images.exif import checked_exif, exif_of_tiff, orientation_of, upright_exif, with_resolution, with_texts
from looc_codec.images.jpeg_xl import xmp_of_jpeg_xl
from looc_codec.images.texts import raw_profile, texts_of
from looc_codec.images.xmp import upright_xmp, with_properties

_XMP_PREFIX = b"http://ns.adobe.com/xap/1.0/\0"
_EXTENDED_XMP_PREFIX = b"http://ns.adobe.com/xmp/extension/\0"
_GAIN_MAP_PREFIX = b"urn:iso:std:iso:ts:21496:-1\0"
_UNKNOWN_PER_INCH = 72
"""What EXIF wants stated where the resolution is unknown, so it tells nothing."""


def exif_and_xmp(image: Image.Image) -> tuple[bytes | None, bytes | None]:
    """EXIF from its TIFF header on, and XMP, as a loaded image has them; None for what is absent or unusable."""
    exif, xmp = image.info.get("exif"), image.info.get("xmp")
    if image.format == "TIFF":
        exif = exif_of_tiff(image)
    elif isinstance(exif, Image.Exif):
        exif = exif.tobytes()
    if isinstance(xmp, str):
        xmp = xmp.encode()
    app1 = raw_profile(image.info, "APP1") or b""
    if not xmp:
        xmp = raw_profile(image.info, "xmp") or (app1.startswith(_XMP_PREFIX) and app1[len(_XMP_PREFIX) :])
    exif = checked_exif(exif) or checked_exif(raw_profile(image.info, "exif")) or checked_exif(app1)
    if not xmp and image.format == "JXL":
        xmp = xmp_of_jpeg_xl(getattr(image, "fc", b""))
    return exif, xmp if isinstance(xmp, bytes) and xmp else None


def orientation_to_undo(image: Image.Image, exif: bytes | None) -> int:
    """The EXIF orientation, 1..8, that the loaded pixels still have; 1 where its reader has turned them."""
    # The codestream of JPEG XL has an orientation of its own, which the reader applies; that in EXIF is a mere copy.
    # Only pixels that come from a JPEG file within (`jpeg`) are as that file has them.
    if exif is None or (image.format == "JXL" and not getattr(image, "jpeg", False)):
        return 1
    return orientation_of(exif) or 1


def upright_metadata(
    image: Image.Image,
    exif: bytes | None,
    xmp: bytes | None,
    width: int,
    height: int,
    notices: list[str],
) -> tuple[bytes | None, bytes | None]:
    """EXIF and XMP for the upright picture of `width` x `height` pixels, with what the file states in other forms.

    That is resolution, IPTC, comments, and text of PNG. One notice names what is left out.
    """
    left_out = _parts_beside(image)
    per_inch = _resolution(image)
    if per_inch is not None:
        # As the file has its sides; they change places together with those of an EXIF block.
        exif = with_resolution(exif, per_inch)
    # Where the reader has turned the pixels, as that of JPEG XL, thumbnails are as they were, too.
    turned = exif is not None and (orientation_of(exif) or 1) != 1
    if exif is not None:
        exif = upright_exif(exif, width, height)
    if xmp is not None:
        xmp, claimed = upright_xmp(xmp, width, height, turned)
        left_out += claimed
    texts = texts_of(image)
    if texts.exif:
        exif = with_texts(exif, texts.exif)
    if texts.properties:
        added = with_properties(xmp, texts.properties)
        if added is None:
            left_out.append("IPTC and text, as its XMP is damaged")
        else:
            xmp = added
    left_out += texts.left_out
    if left_out:
        notices.append(f"left out: {', '.join(dict.fromkeys(left_out))}")
    return exif, xmp


def _resolution(image: Image.Image) -> tuple[float, float] | None:
    """Pixels per inch that a file states outside EXIF; None if it states none, or the one that stands for none."""
    info = image.info
    per_inch = None
    if image.format in ("JPEG", "MPO"):
        # Pillow's `dpi` may come from EXIF, which keeps its own.
        scale = {1: 1, 2: 2.54}.get(info.get("jfif_unit"))
        if scale is not None and info.get("jfif_density"):
            per_inch = tuple(value * scale for value in info["jfif_density"])
    elif image.format != "TIFF":
        # TIFF's is among the tags that are EXIF's too.
        per_inch = info.get("dpi")
    try:
        across, down = (float(value) for value in per_inch)
    except (TypeError, ValueError):
        return None
    if not (1 <= across < 1e5 and 1 <= down < 1e5) or round(across) == round(down) == _UNKNOWN_PER_INCH:
        return None
    # PNG counts by the metre: 300 per inch come back as 299.9994.
    across, down = (round(value) if abs(value - round(value)) < 0.02 else value for value in (across, down))
    return across, down


def _parts_beside(image: Image.Image) -> list[str]:
    """Names of parts that lie in the file beside the picture, as far as they can be told without XMP."""
    found = []
    for _, segment in getattr(image, "applist", ()):
        if segment.startswith(_EXTENDED_XMP_PREFIX):
            found.append("extended XMP")
        elif segment.startswith(_GAIN_MAP_PREFIX):
            found.append("gain map")
    if image.info.get("depth_images"):
        found.append("depth map")
    if image.info.get("aux"):
        found.append("auxiliary images")
    return found
