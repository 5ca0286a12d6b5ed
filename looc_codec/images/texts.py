"""IPTC, comments and PNG text, as EXIF texts and XMP properties; what has no place in either is named."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from PIL import Image

from looc_codec.images.exif import ARTIST_TAG, COPYRIGHT_TAG, IMAGE_DESCRIPTION_TAG, SOFTWARE_TAG

_IPTC_BLOCK, _RESOURCES_TIFF_TAG, _IPTC_TIFF_TAG = 0x0404, 34377, 33723
_CLIPPING_PATHS = range(2000, 2998)
# IPTC-IIM datasets of record 2 to XMP, after the IPTC Core specification.
_IPTC_PROPERTIES = {
    5: "dc:title", 10: "photoshop:Urgency", 12: "Iptc4xmpCore:SubjectCode", 15: "photoshop:Category",
    20: "photoshop:SupplementalCategories", 25: "dc:subject", 40: "photoshop:Instructions",
    55: "photoshop:DateCreated", 80: "dc:creator", 85: "photoshop:AuthorsPosition", 90: "photoshop:City",
    92: "Iptc4xmpCore:Location", 95: "photoshop:State", 100: "Iptc4xmpCore:CountryCode", 101: "photoshop:Country",
    103: "photoshop:TransmissionReference", 105: "photoshop:Headline", 110: "photoshop:Credit", 115: "photoshop:Source",
    116: "dc:rights", 120: "dc:description", 122: "photoshop:CaptionWriter",
}  # fmt: skip
# The version of the record, times that XMP joins to dates, and what editing programs note for themselves.
_IPTC_SILENT = (0, 60, 62, 63, 65, 70)
_PNG_EXIF_TEXTS = {
    "Description": IMAGE_DESCRIPTION_TAG, "Comment": IMAGE_DESCRIPTION_TAG, "Author": ARTIST_TAG,
    "Copyright": COPYRIGHT_TAG, "Software": SOFTWARE_TAG,
}  # fmt: skip
_PNG_PROPERTIES = {"Title": "dc:title", "Source": "photoshop:Source", "Disclaimer": "photoshop:Instructions"}
# Other metadata in the form of text, and dates of the file, which ImageMagick writes into each.
_PNG_SILENT = re.compile(r"XML:com\.adobe\.xmp$|Raw profile type |date:|exif:|xmp:|icc:|tiff:")


@dataclass
class Texts:
    """What a file says in words: EXIF texts by tag, XMP properties by name, and what is left out, by name."""

    exif: dict[int, str] = field(default_factory=dict)
    properties: dict[str, list[str]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def describe(self, text: str) -> None:
        """A comment: the description, or beside one the user's comment."""
        if self.exif.setdefault(IMAGE_DESCRIPTION_TAG, text) != text:
            self.properties.setdefault("exif:UserComment", []).append(text)


def texts_of(image: Image.Image) -> Texts:
    """The words beside a loaded image of any format."""
    texts = Texts()
    for key, value in getattr(image, "text", {}).items():
        _add_png_text(texts, key, str(value))
    comment = image.info.get("comment")
    if isinstance(comment, bytes):
        comment = _decoded(comment)
    if isinstance(comment, str) and comment.strip("\0 \r\n\t"):
        texts.describe(comment.strip("\0 \r\n\t"))
    resources = _resources(image)
    if any(number in _CLIPPING_PATHS for number in resources):
        texts.left_out.append("clipping paths")
    iptc = resources.get(_IPTC_BLOCK) or _iptc_of_tiff(image) or raw_profile(image.info, "iptc")
    if iptc:
        if iptc.startswith(b"8BIM"):
            iptc = resources_of(iptc).get(_IPTC_BLOCK, b"")
        _add_iptc(texts, iptc)
    return texts


def raw_profile(info: dict, kind: str) -> bytes | None:
    """What ImageMagick and Exiv2 store in a PNG's text `Raw profile type KIND`: a name, a length, and bytes in hex."""
    # A title, the length, the digits; each in lines of its own.
    lines = str(info.get(f"Raw profile type {kind}", "")).lstrip().split("\n", 2)
    if len(lines) < 3 or not re.fullmatch(r"\d{1,9}", lines[1].strip(), re.ASCII):
        return None
    try:
        data = bytes.fromhex(lines[2])
    except ValueError:
        return None
    return data[: int(lines[1])] or None


def resources_of(data: bytes) -> dict[int, bytes]:
    """The blocks of Photoshop's image resources by number; what is cut short ends them."""
    found, position = {}, 0
    while data[position : position + 4] == b"8BIM" and len(data) >= position + 12:
        number = int.from_bytes(data[position + 4 : position + 6], "big")
        # A name of an odd length or none is padded, its length byte included.
        start = position + 6 + (data[position + 6] // 2 + 1) * 2
        length = int.from_bytes(data[start : start + 4], "big")
        found[number] = data[start + 4 : start + 4 + length]
        position = start + 4 + length + length % 2
    return found


def _resources(image: Image.Image) -> dict[int, bytes]:
    data = image.info.get("photoshop")
    if isinstance(data, dict):
        return data
    data = getattr(image, "tag_v2", {}).get(_RESOURCES_TIFF_TAG) or raw_profile(image.info, "8bim")
    return resources_of(data) if isinstance(data, bytes) else {}


def _iptc_of_tiff(image: Image.Image) -> bytes | None:
    data = getattr(image, "tag_v2", {}).get(_IPTC_TIFF_TAG)
    if isinstance(data, tuple) and all(isinstance(value, int) for value in data):
        # Many writers call these bytes 32-bit numbers.
        order = "little" if image.tag_v2.prefix == b"II" else "big"
        data = b"".join((value % 2**32).to_bytes(4, order) for value in data)
    return data if isinstance(data, bytes) else None


def _add_png_text(texts: Texts, key: str, value: str) -> None:
    if _PNG_SILENT.match(key) or not value.strip("\0 \r\n\t"):
        return
    tag = _PNG_EXIF_TEXTS.get(key)
    if tag == IMAGE_DESCRIPTION_TAG:
        texts.describe(value)
    elif tag is not None:
        texts.exif[tag] = value
    elif key in _PNG_PROPERTIES:
        texts.properties[_PNG_PROPERTIES[key]] = [value]
    else:
        texts.left_out.append(f"text {_NOT_SHOWN.sub('?', key)!r}")


_NOT_SHOWN = re.compile(r"[^\x20-\x7e]")


def _add_iptc(texts: Texts, data: bytes) -> None:
    """The datasets of an IPTC-IIM block: marker, record, number, length, value."""
    position, lost = 0, False
    while data[position : position + 1] == b"\x1c" and len(data) >= position + 5:
        record, number, length = (
            data[position + 1],
            data[position + 2],
            int.from_bytes(data[position + 3 : position + 5], "big"),
        )
        if length >= 0x8000:
            # Longer than any text is: only pictures within IPTC are.
            lost = True
            break
        value = data[position + 5 : position + 5 + length]
        position += 5 + length
        name = _IPTC_PROPERTIES.get(number) if record == 2 else None
        if name is not None and value:
            text = _decoded(value)
            if name == "photoshop:DateCreated" and re.fullmatch(r"\d{8}", text):
                text = f"{text[:4]}-{text[4:6]}-{text[6:]}"
            texts.properties.setdefault(name, []).append(text)
        elif record == 2 and number not in _IPTC_SILENT:
            lost = True
    if lost:
        texts.left_out.append("some IPTC fields")


def _decoded(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")
