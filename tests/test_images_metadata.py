"""EXIF and XMP that agree with an upright picture alone in its file, and what files state in other forms."""

from __future__ import annotations

import dataclasses
import io
import struct
import sys
import time
import types
import zlib
from pathlib import Path
from xml.dom import minidom

import numpy as np
import pytest
from PIL import Image, ImageOps
from test_images import encoded, exif_block, gradient, png

from looc_codec.errors import ImageError
from looc_codec.images import Picture, exif, picture_from_pillow, picture_to_pillow, read_picture, write_picture, xmp
from looc_codec.images.jpeg_xl import size_of_jpeg_xl, xmp_of_jpeg_xl

HEADER = struct.pack(">IIBBBBB", 40, 30, 8, 2, 0, 0, 0)
ROWS = b"".join(b"\0" + row.tobytes() for row in gradient())
PHOTO = Image.fromarray(gradient())
RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"


def packet(attributes: str = "", body: str = "") -> bytes:
    return (
        '<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        f'<rdf:RDF xmlns:rdf="{RDF}"><rdf:Description rdf:about="" '
        f'xmlns:dc="http://purl.org/dc/elements/1.1/" {attributes}>'
        f'<dc:format>image/jpeg</dc:format>{body}</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()


def block(
    order: str,
    first: dict,
    sub: dict | None = None,
    second: dict | None = None,
    thumbnail: bytes = b"",
    after: bytes = b"",
) -> bytes:
    """An EXIF block of directories {tag: (type, value bytes)}: the first, that of EXIF, and that of a thumbnail."""
    sizes = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1}
    directories = [dict(first), dict(sub or {}), dict(second or {})]
    lengths = [
        2 + 12 * (len(entries) + (index == 0 and sub is not None)) + 4 for index, entries in enumerate(directories)
    ]
    bulk = [sum(len(value) for _, value in entries.values() if len(value) > 4) for entries in directories]
    starts = [8, 8 + lengths[0] + bulk[0], 8 + sum(lengths[:2]) + sum(bulk[:2])]
    if sub is not None:
        directories[0][0x8769] = (4, struct.pack(order + "I", starts[1]))
    thumbnail_start = starts[2] + lengths[2] + bulk[2]
    if second is not None:
        directories[2][0x0201] = (4, struct.pack(order + "I", thumbnail_start))
        directories[2][0x0202] = (4, struct.pack(order + "I", len(thumbnail)))
        thumbnail_start += 24
        directories[2][0x0201] = (4, struct.pack(order + "I", thumbnail_start))
        lengths[2] += 24
    data = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    for index, entries in enumerate(directories):
        if index and (sub, second)[index - 1] is None:
            continue
        place = starts[index] + lengths[index]
        table, outside = b"", b""
        for tag, (kind, value) in sorted(entries.items()):
            table += struct.pack(order + "HHI", tag, kind, len(value) // sizes[kind])
            if len(value) > 4:
                table += struct.pack(order + "I", place + len(outside))
                outside += value
            else:
                table += value.ljust(4, b"\0")
        link = starts[2] if index == 0 and second is not None else 0
        data += struct.pack(order + "H", len(entries)) + table + struct.pack(order + "I", link) + outside
    return data + thumbnail + after


def camera_exif(order: str = "<", orientation: int = 6, after: bytes = b"") -> bytes:
    """A block as cameras write it: sizes, a maker's note, unequal resolutions, a subject area, and a thumbnail."""
    pack = struct.Struct(order + "H").pack
    rational = struct.Struct(order + "II").pack
    return block(
        order,
        {0x010F: (2, b"maker\0"), 0x0112: (3, pack(orientation)), 0x011A: (5, rational(300, 1)),
         0x011B: (5, rational(150, 1))},
        {0x9214: (3, struct.pack(order + "3H", 5, 6, 7)), 0x927C: (7, b"the maker's own note"),
         0xA002: (3, pack(40)), 0xA003: (4, struct.pack(order + "I", 30))},
        {0x0103: (3, pack(6))},
        b"\xff\xd8 a thumbnail \xff\xd9",
        after,
    )  # fmt: skip


def read_exif(data: bytes) -> Image.Exif:
    result = Image.Exif()
    result.load(b"Exif\0\0" + data)
    return result


# --- turning ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("orientation", range(2, 9))
def test_exif_agrees_with_the_turned_picture(order: str, orientation: int) -> None:
    picture = read_picture(encoded(PHOTO, exif=camera_exif(order, orientation)))
    expected = np.array(ImageOps.exif_transpose(with_exif(PHOTO, orientation)))
    assert (picture.rgb == expected).all()
    found = read_exif(picture.exif)
    sub = found.get_ifd(0x8769)
    assert found[0x0112] == 1 and found[0x010F] == "maker"
    assert (sub[0xA002], sub[0xA003]) == (picture.width, picture.height)
    assert sub[0x927C] == b"the maker's own note" and 0x9214 not in sub
    assert (found[0x011A], found[0x011B]) == ((150, 300) if orientation >= 5 else (300, 150))
    assert not found.get_ifd(0x0201) and b"thumbnail" not in picture.exif
    assert len(picture.exif) < len(camera_exif(order)) - 30


def with_exif(image: Image.Image, orientation: int) -> Image.Image:
    image = image.copy()
    image.getexif()[0x0112] = orientation
    return image


def test_exif_of_an_upright_picture_stays_byte_for_byte() -> None:
    for orientation in (1, 9):
        # One of those that mean nothing becomes the one that does.
        assert read_picture(encoded(PHOTO, exif=camera_exif("<", orientation))).exif == camera_exif("<", 1)


def test_a_size_that_was_wrong_before_is_right() -> None:
    picture = read_picture(encoded(PHOTO.crop((0, 0, 20, 10)), exif=camera_exif("<", 1)))
    sub = read_exif(picture.exif).get_ifd(0x8769)
    assert (sub[0xA002], sub[0xA003]) == (20, 10) and b"thumbnail" in picture.exif


def test_what_lies_behind_a_thumbnail_keeps_its_place() -> None:
    data = camera_exif(after=b"the maker's preview")
    picture = read_picture(encoded(PHOTO, exif=data))
    assert picture.exif.index(b"the maker's preview") == data.index(b"the maker's preview")
    assert b" a thumbnail " not in picture.exif


def test_damaged_exif_never_fails() -> None:
    rng = np.random.default_rng(5)
    good = camera_exif()
    for _ in range(3000):
        data = np.frombuffer(good, np.uint8).copy()
        data[rng.integers(4, len(data), 6)] = rng.choice([0, 1, 2, 255, 8, 40, 100], 6)
        data = data.tobytes()[: rng.integers(8, len(good) + 1)]
        changed = exif.with_resolution(exif.with_texts(exif.upright_exif(data, 30, 40), {0x010E: "text"}), (300, 300))
        assert changed[:4] == b"II*\0" and len(changed) < len(good) + 300
        exif.resolution_of(changed)


def test_endless_directories_take_no_time() -> None:
    entry = struct.pack("<HHII", 0x0201, 7, 2**31, 8)
    data = b"II*\0\x08\0\0\0" + struct.pack("<H", 65535) + entry * 65535 + struct.pack("<I", 8)
    started = time.perf_counter()
    assert exif.upright_exif(data, 30, 40) == data and exif.with_texts(data, {0x010E: "text"}) == data
    # Searched pair by pair it would be minutes.
    assert time.perf_counter() - started < 5


TIFF_AND_EXIF = 'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:exif="http://ns.adobe.com/exif/1.0/" '


def test_xmp_agrees_with_the_turned_picture() -> None:
    given = packet(
        TIFF_AND_EXIF + 'tiff:Orientation="6" tiff:ImageWidth="40" exif:PixelXDimension="40"',
        "<tiff:ImageLength>30</tiff:ImageLength><exif:PixelYDimension>30</exif:PixelYDimension>"
        '<xmp:Thumbnails xmlns:xmp="http://ns.adobe.com/xap/1.0/"><rdf:Alt/></xmp:Thumbnails>',
    )
    data = encoded(PHOTO, "JPEG", exif=b"Exif\0\0" + exif_block(6), xmp=given)
    found = read_picture(data).xmp
    for part in (
        b'Orientation="1"',
        b'ImageWidth="30"',
        b'PixelXDimension="30"',
        b">40</tiff:ImageLength>",
        b">40</exif:PixelYDimension>",
    ):
        assert part in found
    assert (
        b"Thumbnails" not in found and found.startswith(b"<?xpacket begin") and found.endswith(b'<?xpacket end="w"?>')
    )
    upright = read_picture(encoded(PHOTO, "JPEG", xmp=given.replace(b'Orientation="6"', b'Orientation="1"'))).xmp
    assert upright == given.replace(b'Orientation="6"', b'Orientation="1"')


class ReadByPlugin(Image.Image):
    """An image as the reader of JPEG XL gives it: pixels, EXIF, and whether they come from a JPEG file within."""

    format = "JXL"
    jpeg = False


@pytest.mark.parametrize("jpeg", [False, True])
def test_jpeg_xl_is_turned_by_its_reader_alone(jpeg: bool) -> None:
    image = ReadByPlugin()
    image.im, image._mode, image._size, image.jpeg = PHOTO.im, "RGB", PHOTO.size, jpeg
    image.info["exif"] = camera_exif()
    picture = picture_from_pillow(image)
    assert (picture.rgb == (np.rot90(gradient(), -1) if jpeg else gradient())).all()
    found = read_exif(picture.exif)
    assert found[0x0112] == 1 and found.get_ifd(0x8769)[0xA002] == picture.width and b"thumbnail" not in picture.exif


def test_jpeg_xl_with_its_reader(tmp_path: Path) -> None:
    pytest.importorskip("pillow_jxl")
    copy = encoded(PHOTO, "JXL", lossless=True, exif=b"Exif\0\0" + camera_exif(), use_container=True)
    assert (read_picture(copy).rgb == gradient()).all()
    PHOTO.save(tmp_path / "a.jpg", quality=95, subsampling=0, exif=camera_exif())
    with Image.open(tmp_path / "a.jpg") as image:
        image.save(tmp_path / "a.jxl", lossless_jpeg=True)
    assert (read_picture(tmp_path / "a.jxl").rgb == read_picture(tmp_path / "a.jpg").rgb).all()
    with pytest.raises(ImageError, match="40x30 pixels, more than the limit of 1199"):
        read_picture(copy, max_pixels=1199)


def test_the_size_of_jpeg_xl_is_known_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setitem(sys.modules, "pillow_jxl", types.ModuleType("pillow_jxl"))
    monkeypatch.setitem(Image.OPEN, "JXL", (never, lambda prefix: prefix.startswith(b"\xff\x0a")))
    # Not in eights, heights of 30 bits (60 001), ratio 1:1.
    bits = 0 | 3 << 1 | 60_000 << 3 | 1 << 33
    data = b"\xff\x0a" + bits.to_bytes(12, "little")
    with pytest.raises(ImageError, match="60001x60001 pixels, more than the limit"):
        read_picture(data)
    boxes = b"\0\0\0\x0cJXL \r\n\x87\n" + box(b"xml ", packet()) + box(b"jxlp", bytes(4) + data)
    assert size_of_jpeg_xl(io.BytesIO(boxes)) == (60_001, 60_001)
    # In eights: 16 rows, and the width by itself: 24.
    small = 1 | 1 << 1 | 0 << 6 | 2 << 9
    assert size_of_jpeg_xl(io.BytesIO(b"\xff\x0a" + small.to_bytes(8, "little"))) == (24, 16)
    assert xmp_of_jpeg_xl(boxes) == packet()
    assert xmp_of_jpeg_xl(data) is None and size_of_jpeg_xl(io.BytesIO(b"\x89PNG")) is None
    assert size_of_jpeg_xl(io.BytesIO(boxes[:12] + bytes(30))) is None


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content) + 8) + kind + content


# --- the text form of ImageMagick -------------------------------------------------------------------------------------


def raw_profile(kind: str, data: bytes, compressed: bool = True, title: str | None = None) -> tuple[bytes, bytes]:
    digits = data.hex()
    lines = "\n".join(digits[start : start + 72] for start in range(0, len(digits), 72))
    text = f"\n{title or kind}\n{len(data):8}\n{lines}\n".encode()
    name = f"Raw profile type {kind}".encode() + b"\0"
    return (b"zTXt", name + b"\0" + zlib.compress(text)) if compressed else (b"tEXt", name + text)


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("kind", ["exif", "APP1"])
def test_exif_as_text_is_what_it_is_as_a_chunk(kind: str, compressed: bool) -> None:
    chunk = raw_profile(kind, b"Exif\0\0" + camera_exif(), compressed, "generic profile" if kind == "APP1" else None)
    picture, other = read_picture(png(HEADER, ROWS, chunk)), read_picture(encoded(PHOTO, exif=camera_exif()))
    assert (picture.rgb == other.rgb).all() and picture.rgb.shape[:2] == (40, 30)
    assert picture.exif == other.exif and picture.notices == ()


def test_an_exif_chunk_overrules_exif_as_text() -> None:
    picture = read_picture(
        png(HEADER, ROWS, (b"eXIf", exif_block(1)), raw_profile("exif", b"Exif\0\0" + camera_exif()))
    )
    assert picture.exif == exif_block(1) and picture.width == 40


def test_xmp_and_iptc_as_text_are_read() -> None:
    for chunk in (raw_profile("xmp", packet()), raw_profile("APP1", b"http://ns.adobe.com/xap/1.0/\0" + packet())):
        assert read_picture(png(HEADER, ROWS, chunk)).xmp == packet()
    for data in (iptc(), resource(0x0404, iptc())):
        assert_has_iptc(read_picture(png(HEADER, ROWS, raw_profile("iptc", data, title="IPTC profile"))))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\nexif\n",
        b"\nexif\n   9\nzz",
        b"\nexif\n   3\n0",
        b"\nexif\n 99999999999\n4949",
        b" " * 400_000,
        b"\nexif\n" + b" " * 400_000,
    ],
)
def test_damaged_text_forms_are_passed_over(text: bytes) -> None:
    picture = read_picture(png(HEADER, ROWS, (b"tEXt", b"Raw profile type exif\0" + text)))
    assert picture.exif is None and (picture.rgb == gradient()).all()


# --- what has another form --------------------------------------------------------------------------------------------

DATASETS = {
    5: b"Wedding",
    120: "Gro\u00dfmutter <1950> & Co".encode(),
    25: b"one",
    80: b"Ann",
    116: b"(c) Ann",
    55: b"19500102",
    90: b"Rome",
}


def iptc(more: dict[int, bytes] | None = None) -> bytes:
    data = b"\x1c\x01\x5a\0\x03\x1b%G" + b"".join(
        struct.pack(">BBBH", 0x1C, 2, number, len(value)) + value
        for number, value in {**DATASETS, **(more or {})}.items()
    )
    return data + struct.pack(">BBBH", 0x1C, 2, 25, 3) + b"two"


def resource(number: int, data: bytes, name: bytes = b"") -> bytes:
    name = bytes([len(name)]) + name
    return (
        b"8BIM"
        + struct.pack(">H", number)
        + name
        + bytes(len(name) % 2)
        + struct.pack(">I", len(data))
        + data
        + bytes(len(data) % 2)
    )


def jpeg(*segments: tuple[int, bytes], **options: object) -> bytes:
    """A JPEG file with further segments (marker byte, content) at its beginning."""
    data = encoded(PHOTO, "JPEG", **options)
    return (
        data[:2]
        + b"".join(bytes([0xFF, marker]) + struct.pack(">H", len(part) + 2) + part for marker, part in segments)
        + data[2:]
    )


def texts_in(packet_bytes: bytes, name: str) -> list[str]:
    document = minidom.parseString(packet_bytes)
    (node,) = document.getElementsByTagName(name)
    items = node.getElementsByTagName("rdf:li") or [node]
    return [item.firstChild.data for item in items]


def assert_has_iptc(picture: Picture) -> None:
    assert texts_in(picture.xmp, "dc:title") == ["Wedding"]
    assert texts_in(picture.xmp, "dc:description") == ["Gro\u00dfmutter <1950> & Co"]
    assert texts_in(picture.xmp, "dc:subject") == ["one", "two"]
    assert texts_in(picture.xmp, "dc:creator") == ["Ann"]
    assert texts_in(picture.xmp, "photoshop:DateCreated") == ["1950-01-02"]
    assert texts_in(picture.xmp, "photoshop:City") == ["Rome"]
    assert picture.notices == ()


def test_iptc_of_a_jpeg_becomes_xmp() -> None:
    blocks = b"Photoshop 3.0\0" + resource(0x03E9, b"abc", b"odd") + resource(0x0404, iptc())
    assert_has_iptc(read_picture(jpeg((0xED, blocks))))
    stated = packet(body="<dc:creator><rdf:Seq><rdf:li>Bob</rdf:li></rdf:Seq></dc:creator>")
    picture = read_picture(jpeg((0xED, blocks), xmp=stated))
    assert texts_in(picture.xmp, "dc:creator") == ["Bob"] and texts_in(picture.xmp, "dc:title") == ["Wedding"]
    assert texts_in(picture.xmp, "dc:format") == ["image/jpeg"]


def test_iptc_of_a_tiff_becomes_xmp() -> None:
    for tag, data in ((33723, iptc()), (34377, resource(0x0404, iptc()))):
        assert_has_iptc(read_picture(encoded(PHOTO, "TIFF", tiffinfo={tag: data})))


def test_what_has_no_place_is_named_once() -> None:
    blocks = b"Photoshop 3.0\0" + resource(2000, b"path") + resource(0x0404, iptc({200: b"\x00\x01", 201: b"x"}))
    extension = b"http://ns.adobe.com/xmp/extension/\0" + b"0" * 32 + struct.pack(">II", 9, 0) + b"<x:xmpme/"
    picture = read_picture(
        jpeg((0xED, blocks), (0xE1, extension), (0xE1, extension), (0xE2, b"urn:iso:std:iso:ts:21496:-1\0"))
    )
    assert picture.notices == ("left out: extended XMP, gain map, clipping paths, some IPTC fields",)
    text = read_picture(
        png(HEADER, ROWS, (b"tEXt", b"parameters\0a cat"), (b"tEXt", b"date:create\x002020"), (b"tEXt", b"Title\0Cat"))
    )
    assert text.notices == ("left out: text 'parameters'",) and texts_in(text.xmp, "dc:title") == ["Cat"]


def test_xmp_that_cannot_be_added_to_is_kept_with_a_notice() -> None:
    picture = read_picture(
        png(HEADER, ROWS, (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x:broken"), (b"tEXt", b"Title\0Cat"))
    )
    assert picture.xmp == b"<x:broken" and "left out: IPTC and text" in picture.notices[0]


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "avif"])
def test_comments_come_back_from_every_format(suffix: str) -> None:
    for data in (
        jpeg((0xFE, "Gro\u00dfmutter 1950\0".encode())),
        encoded(PHOTO, "GIF", comment="Gro\u00dfmutter 1950".encode()),
        png(HEADER, ROWS, (b"iTXt", b"Description\0\0\0\0\0" + "Gro\u00dfmutter 1950".encode())),
    ):
        picture = read_picture(data)
        assert picture.notices == () and "Gro\u00dfmutter 1950\0".encode() in picture.exif
        file = io.BytesIO()
        assert write_picture(picture, file, suffix) == ()
        assert "Gro\u00dfmutter 1950\0".encode() in read_picture(file.getvalue()).exif


def test_texts_join_a_block_without_moving_anything() -> None:
    picture = read_picture(jpeg((0xFE, b"grandma"), exif=b"Exif\0\0" + camera_exif("<", 1)))
    assert picture.exif[8 : len(camera_exif())] == camera_exif("<", 1)[8:]
    found = read_exif(picture.exif)
    assert found[0x010E] == "grandma" and found[0x010F] == "maker"
    assert found.get_ifd(0x8769)[0x927C] == b"the maker's own note"
    assert exif.with_texts(picture.exif, {0x010E: "other"}) == picture.exif


def test_a_comment_beside_a_description_is_a_property() -> None:
    picture = read_picture(png(HEADER, ROWS, (b"tEXt", b"Description\0first"), (b"tEXt", b"Comment\0second")))
    assert read_exif(picture.exif)[0x010E] == "first" and texts_in(picture.xmp, "exif:UserComment") == ["second"]


SOURCES = {
    "png": lambda: encoded(PHOTO, dpi=(300, 150)),
    "jpg": lambda: encoded(PHOTO, "JPEG", dpi=(300, 150)),
    "tif": lambda: encoded(PHOTO, "TIFF", dpi=(300, 150)),
    "bmp": lambda: encoded(PHOTO, "BMP", dpi=(300, 150)),
    "exif": lambda: encoded(PHOTO, "WEBP", exif=camera_exif("<", 1)),
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("target", ["png", "jpg", "tif", "bmp", "webp", "avif"])
def test_resolution_survives(source: str, target: str) -> None:
    picture = read_picture(SOURCES[source]())
    assert picture.notices == () and picture_to_pillow(picture).info["dpi"] == pytest.approx((300, 150), abs=0.1)
    file = io.BytesIO()
    write_picture(dataclasses.replace(picture, icc=None), file, target)
    assert exif.resolution_of(read_picture(file.getvalue()).exif) == pytest.approx((300, 150), abs=0.1)
    with Image.open(file) as image:
        if target in ("png", "jpg", "tif", "bmp"):
            assert image.info["dpi"] == pytest.approx((300, 150), abs=0.1)


@pytest.mark.parametrize("order", "<>")
def test_tiff_files_have_the_camera_data(order: str) -> None:
    picture = read_picture(encoded(PHOTO, exif=camera_exif(order, 1)))
    file = io.BytesIO()
    assert write_picture(picture, file, "tif") == ()
    with Image.open(file) as image:
        assert image.info["compression"] == "tiff_adobe_deflate" and (np.array(image) == gradient()).all()
        sub = image.getexif().get_ifd(0x8769)
    assert sub[0x927C] == b"the maker's own note" and sub[0x9214] == (5, 6, 7) and sub[0xA002] == 40
    again = read_exif(read_picture(file.getvalue()).exif)
    assert again[0x010F] == "maker" and again.get_ifd(0x8769)[0x927C] == b"the maker's own note"


def test_resolution_turns_with_the_picture() -> None:
    picture = read_picture(encoded(PHOTO, dpi=(300, 150), exif=exif_block(6)))
    assert exif.resolution_of(picture.exif) == (150, 300)


def test_no_resolution_is_made_up() -> None:
    assert exif.resolution_of(exif_block(1)) is None
    assert read_picture(encoded(PHOTO, "JPEG", exif=b"Exif\0\0" + exif_block(1))).exif == exif_block(1)
    for data in (encoded(PHOTO, "JPEG", dpi=(72, 72)), encoded(PHOTO, dpi=(72, 72)), encoded(PHOTO, "JPEG")):
        assert read_picture(data).exif is None


# --- claims about parts that are gone ---------------------------------------------------------------------------------

CLAIMS = {
    "gain map": 'xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0"',
    "motion photo": 'xmlns:GCamera="http://ns.google.com/photos/1.0/camera/" GCamera:MotionPhoto="1" '
    'GCamera:MotionPhotoVersion="1"',
    "depth map": 'xmlns:GDepth="http://ns.google.com/photos/1.0/depthmap/" GDepth:Format="RangeInverse"',
    "extended XMP": 'xmlns:xmpNote="http://ns.adobe.com/xmp/note/" '
    'xmpNote:HasExtendedXMP="0123456789ABCDEF0123456789ABCDEF"',
}


@pytest.mark.parametrize("kind", CLAIMS)
@pytest.mark.parametrize("form", ["attribute", "element"])
def test_no_xmp_claims_what_is_gone(kind: str, form: str) -> None:
    space, *values = CLAIMS[kind].split(" ")
    body = "".join("<{0}>{1}</{0}>".format(*value.replace('"', "").split("=")) for value in values)
    given = packet(CLAIMS[kind]) if form == "attribute" else packet(space, body)
    picture = read_picture(encoded(PHOTO, "JPEG", xmp=given))
    assert picture.notices == (f"left out: {kind}",)
    assert all(value.split("=")[0].encode() not in picture.xmp for value in values)
    if kind in ("gain map", "depth map"):
        assert space.encode() not in picture.xmp
    assert texts_in(picture.xmp, "dc:format") == ["image/jpeg"]
    assert read_picture(encoded(PHOTO, "JPEG", xmp=picture.xmp)).notices == ()


def test_containers_name_their_items() -> None:
    container = (
        '<C:Directory xmlns:C="http://ns.google.com/photos/1.0/container/" '
        'xmlns:I="http://ns.google.com/photos/1.0/container/item/">'
        '<rdf:Seq><rdf:li rdf:parseType="Resource"><C:Item I:Semantic="Primary"/></rdf:li>'
        '<rdf:li rdf:parseType="Resource"><C:Item I:Semantic="MotionPhoto"/></rdf:li>'
        '<rdf:li rdf:parseType="Resource"><C:Item I:Semantic="GainMap"/></rdf:li></rdf:Seq></C:Directory>'
    )
    picture = read_picture(encoded(PHOTO, "JPEG", xmp=packet(body=container)))
    assert picture.notices == ("left out: motion photo, gain map",) and b"Item" not in picture.xmp


def test_other_properties_of_the_same_makers_stay() -> None:
    given = packet(
        'xmlns:GCamera="http://ns.google.com/photos/1.0/camera/" GCamera:BurstID="7" '
        'xmlns:p="http://ns.google.com/photos/1.0/panorama/" p:ProjectionType="equirectangular"'
    )
    picture = read_picture(encoded(PHOTO, "JPEG", xmp=given))
    assert picture.xmp == given and picture.notices == ()


@pytest.mark.parametrize(
    "damaged",
    [
        b"<x",
        b"\xff\xfe<",
        b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>",
        b"<a>" * 3000 + b"</a>" * 3000,
        b"<a>" + b" " * 2**20 + b"</a>",
    ],
    ids=["cut", "no text", "entities", "deep", "long"],
)
def test_xmp_that_is_no_packet_stays_as_it_is(damaged: bytes) -> None:
    assert xmp.upright_xmp(damaged, 40, 30, True) == (damaged, [])
    assert xmp.with_properties(damaged, {"dc:title": ["a"]}) is None
