"""The container: what is written is read back, and every damaged or foreign file is refused with a typed error."""

from __future__ import annotations

import dataclasses
import tracemalloc
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from looc_codec.format import container as c
from looc_codec.format.container import Chunk, Colour, Container, looks_like_looc, overhead_bytes, pack, read_header, unpack
from looc_codec.errors import (
    DamagedError,
    FormatError,
    LimitError,
    MalformedError,
    NotLoocError,
    TrailingBytesError,
    TruncatedError,
    UnsupportedError,
)

SMALL = Container(
    width=300,
    height=200,
    level=42,
    fingerprint=bytes(range(8)),
    segments=(b"first", b"", b"groups"),
    code_checksum=0xDEADBEEF,
    chunks=(Chunk("exif", b"II*\0"), Chunk("zzzz", b""), Chunk("ALPH", b"plane")),
)
PLAIN = dataclasses.replace(SMALL, chunks=())


def sealed(body: bytes) -> bytes:
    """The bytes with the file checksum that belongs to them."""
    return body + zlib.crc32(body).to_bytes(4, "big")


def replaced(data: bytes, start: int, end: int, new: bytes) -> bytes:
    """The file with some bytes replaced and the file checksum made to match."""
    return sealed((data[:start] + new + data[end:])[:-4])


chunk_types = st.sampled_from(["iccp", "exif", "xmp_", "ALPH", "abcd", "z_zZ"])
containers = st.builds(
    Container,
    width=st.integers(1, 2**30 - 1),
    height=st.integers(1, 2**30 - 1),
    level=st.integers(1, 100),
    fingerprint=st.binary(min_size=8, max_size=8),
    segments=st.lists(st.binary(max_size=300), min_size=1, max_size=15).map(tuple),
    code_checksum=st.integers(0, 2**32 - 1),
    colour=st.sampled_from(Colour),
    filter=st.binary(max_size=255),
    chunks=st.lists(st.builds(Chunk, chunk_types, st.binary(max_size=200)), max_size=6, unique_by=lambda k: k.type).map(tuple),
)


@settings(max_examples=150, deadline=None)
@given(containers)
def test_unpack_gives_back_what_was_packed(container: Container) -> None:
    data = pack(container)
    assert looks_like_looc(data)
    assert unpack(data, max_pixels=2**60) == container
    assert unpack(memoryview(data), max_pixels=2**60) == container
    header = read_header(data)
    assert header.file_bytes == len(data)
    assert (header.width, header.height, header.level) == (container.width, container.height, container.level)
    assert (header.fingerprint, header.code_checksum) == (container.fingerprint, container.code_checksum)
    assert (header.colour, header.filter) == (container.colour, container.filter)
    assert header.segment_lengths_bytes == tuple(map(len, container.segments))
    assert [(k.type, k.length_bytes) for k in header.chunks] == [(k.type, len(k.data)) for k in container.chunks]
    bare = dataclasses.replace(container, chunks=())
    assert len(pack(bare)) == overhead_bytes(container) + len(container.filter) + sum(map(len, container.segments))


def test_layout_is_the_documented_one() -> None:
    expected = "8c4c43" "13" "ac02" "c801" "2a" "0001020304050607" "05" "00" "06" "deadbeef"
    assert pack(PLAIN) == sealed(bytes.fromhex(expected) + b"first" + b"groups")


@pytest.mark.parametrize(
    ("width", "height", "segment_bytes", "limit"), [(6000, 4000, 2_000_000, 40), (768, 512, 16_000, 35), (768, 512, 127, 30)]
)
def test_overhead_is_small(width: int, height: int, segment_bytes: int, limit: int) -> None:
    container = Container(width, height, 50, bytes(8), (bytes(segment_bytes),) * 5, 2**32 - 1)
    assert len(pack(container)) - 5 * segment_bytes == overhead_bytes(container) == limit


def test_overhead_leaves_chunks_out() -> None:
    assert overhead_bytes(SMALL) == overhead_bytes(PLAIN)


@pytest.mark.parametrize("container", [SMALL, PLAIN])
def test_every_truncation_reads_as_truncated(container: Container) -> None:
    data = pack(container)
    for length in range(len(data)):
        with pytest.raises(TruncatedError, match="truncated"):
            unpack(data[:length])


@pytest.mark.parametrize("container", [SMALL, PLAIN])
def test_every_flipped_byte_is_refused(container: Container) -> None:
    data = pack(container)
    for position in range(len(data)):
        for flip in (0x01, 0x80, 0xFF):
            damaged = bytearray(data)
            damaged[position] ^= flip
            with pytest.raises(FormatError):
                unpack(bytes(damaged))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80), st.booleans())
def test_random_bytes_are_refused(noise: bytes, with_magic: bool) -> None:
    with pytest.raises(FormatError):
        unpack(c.MAGIC + b"\x13" + noise if with_magic else noise)


@pytest.mark.parametrize("data", [b"\x89PNG\r\n\x1a\n", b"\x8cLX", b"text", b"\0" * 100])
def test_other_files_are_not_looc(data: bytes) -> None:
    assert not looks_like_looc(data)
    with pytest.raises(NotLoocError, match="not a .looc file"):
        unpack(data)


def test_each_error_has_its_type_and_sentence() -> None:
    data = pack(PLAIN)
    cases = [
        (replaced(data, 3, 4, b"\x23"), UnsupportedError, "format version 2"),
        (replaced(data, 3, 4, b"\x10\x10"), MalformedError, "flags 10"),
        (replaced(data, 3, 4, b"\x10\x03"), MalformedError, "flags 03"),
        (replaced(data, 3, 4, b"\x10\x33"), UnsupportedError, "flags 33"),
        (replaced(data, 3, 4, b"\x10\x93"), UnsupportedError, "flags 93"),
        (replaced(data, 3, 4, b"\x10\xc3"), UnsupportedError, "flags C3"),
        (replaced(replaced(data, 24, 24, b"\0"), 3, 4, b"\x10\x43"), MalformedError, "filter before byte 26 is empty"),
        (replaced(replaced(data, 24, 24, b"\xff"), 3, 4, b"\x10\x43"), TruncatedError, "filter"),
        (replaced(data, 4, 6, b"\0"), LimitError, "has none"),
        (replaced(data, 6, 8, b"\0"), LimitError, "has none"),
        (replaced(data, 4, 6, b"\xff\xff\xff\xff\x7f"), LimitError, "a side"),
        (replaced(data, 4, 8, b"\xc0\x84\x3d" * 2), LimitError, "limit of 250000000"),
        (replaced(data, 4, 6, b"\xac\x82\0"), MalformedError, "varint"),
        (replaced(data, 4, 6, b"\xff" * 5), MalformedError, "varint"),
        (replaced(data, 8, 9, b"\0"), MalformedError, "level 0"),
        (replaced(data, 8, 9, b"\x65"), MalformedError, "level 101"),
        (replaced(data, 8, 9, b"\xaa"), MalformedError, "chunks"),
        (data + b"tail", TrailingBytesError, "4 bytes follow"),
        (data[:-1] + bytes([data[-1] ^ 1]), DamagedError, "checksum"),
        (data[:-1] + bytes([data[-1] ^ 1]) + b"tail", DamagedError, "checksum"),
    ]
    for damaged, kind, sentence in cases:
        with pytest.raises(FormatError, match=sentence) as caught:
            unpack(damaged)
        assert type(caught.value) is kind


def test_a_grey_picture_takes_one_byte_more() -> None:
    for colour, flags in ((Colour.GREY, 0x13), (Colour.GREY_AS_RGB, 0x23)):
        grey = dataclasses.replace(PLAIN, colour=colour)
        assert pack(grey) == replaced(pack(PLAIN), 3, 4, bytes([0x10, flags]))
        assert overhead_bytes(grey) == overhead_bytes(PLAIN) + 1


def test_a_filter_lies_between_checksum_and_chunks() -> None:
    filtered = dataclasses.replace(PLAIN, filter=b"taps")
    assert pack(filtered) == replaced(replaced(pack(PLAIN), 24, 24, b"\x04taps"), 3, 4, b"\x10\x43")
    assert overhead_bytes(filtered) == overhead_bytes(PLAIN) + 2
    grey = dataclasses.replace(filtered, colour=Colour.GREY)
    assert pack(grey) == replaced(pack(filtered), 4, 5, b"\x53") and overhead_bytes(grey) == overhead_bytes(filtered)
    with pytest.raises(FormatError, match="filter of 256 bytes"):
        pack(dataclasses.replace(PLAIN, filter=bytes(256)))


def with_chunks(*chunks: bytes) -> bytes:
    body = bytearray(pack(PLAIN)[:-4])
    body[8] |= 0x80
    payload = len(b"firstgroups")
    return sealed(bytes(body[:-payload]) + bytes([len(chunks)]) + b"".join(chunks) + bytes(body[-payload:]))


def raw_chunk(name: bytes, data: bytes) -> bytes:
    return name + bytes([len(data)]) + data + zlib.crc32(name + data).to_bytes(4, "big")


def test_chunk_errors() -> None:
    exif = raw_chunk(b"exif", b"1")
    assert unpack(with_chunks(exif)).chunks == (Chunk("exif", b"1"),)
    cases = [
        (with_chunks(exif, exif), MalformedError, "two exif"),
        (with_chunks(raw_chunk(b"HDR_", b"")), UnsupportedError, "feature HDR_"),
        (with_chunks(raw_chunk(b"ex1f", b"")), MalformedError, "four letters"),
        (with_chunks(raw_chunk(b"_xmp", b"")), MalformedError, "four letters"),
        (with_chunks(exif[:-1] + b"\0"), DamagedError, "exif chunk"),
        (with_chunks(b"exif\xff\xff\xff\xff\x7f"), TruncatedError, "exif chunk"),
        (with_chunks(*[raw_chunk(b"zzzz", b"")] * 65), MalformedError, "65 chunks"),
    ]
    for damaged, kind, sentence in cases:
        with pytest.raises(FormatError, match=sentence) as caught:
            unpack(damaged)
        assert type(caught.value) is kind


def test_unknown_ancillary_chunks_are_kept_also_twice() -> None:
    twice = raw_chunk(b"note", b"a")
    assert unpack(with_chunks(twice, twice)).chunks == (Chunk("note", b"a"),) * 2


def test_header_of_an_unknown_critical_chunk_can_be_read() -> None:
    assert [chunk.type for chunk in read_header(with_chunks(raw_chunk(b"HDR_", b""))).chunks] == ["HDR_"]


def test_header_needs_no_payload() -> None:
    data = pack(SMALL)
    assert read_header(data[: -4 - len(b"firstgroups")]) == read_header(data)


@pytest.mark.parametrize("size", [(250_000_000, 1), (1, 250_000_000), (80_000_000, 3)])
def test_strips_that_take_the_memory_of_many_pixels_are_refused(size) -> None:
    """250 MP in one row have 16 times the blocks of a square picture, and a file of 46 bytes can claim them."""
    data = pack(dataclasses.replace(PLAIN, width=size[0], height=size[1]))
    with pytest.raises(LimitError, match="strip"):
        unpack(data)
    assert unpack(data, max_pixels=2**31).width == size[0]


@pytest.mark.parametrize("size", [(65_000, 20), (65_535, 1), (1, 1_000_000), (20_000, 12_500), (15_000_000, 16)])
def test_common_strips_pass(size) -> None:
    assert unpack(pack(dataclasses.replace(PLAIN, width=size[0], height=size[1])), max_pixels=250_000_000).height == size[1]
    if size[0] * size[1] <= 2**20:
        assert unpack(pack(dataclasses.replace(PLAIN, width=size[0], height=size[1])), max_pixels=size[0] * size[1]).height == size[1]


def test_max_pixels_is_the_callers() -> None:
    data = pack(PLAIN)
    assert unpack(data, max_pixels=60_000) == PLAIN
    with pytest.raises(LimitError, match="limit of 59999"):
        unpack(data, max_pixels=59_999)
    with pytest.raises(LimitError, match="limit of 59999"):
        read_header(data, max_pixels=59_999)


def test_claimed_sizes_allocate_nothing() -> None:
    data = pack(PLAIN)
    huge = b"\xff\xff\xff\xff\x7f"
    claims = [
        replaced(data, 17, 20, huge * 3),
        with_chunks(b"exif" + huge),
        replaced(data, 4, 8, b"\xff\xff\xff\xff\x03" * 2),
    ]
    for claim in claims:
        tracemalloc.start()
        try:
            with pytest.raises(FormatError):
                unpack(claim)
            assert tracemalloc.get_traced_memory()[1] < 200_000
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"width": 0}, LimitError),
        ({"height": 2**30}, LimitError),
        ({"level": 0}, FormatError),
        ({"level": 101}, FormatError),
        ({"fingerprint": b"short"}, FormatError),
        ({"segments": ()}, FormatError),
        ({"segments": (b"",) * 16}, FormatError),
        ({"code_checksum": 2**32}, FormatError),
        ({"chunks": (Chunk("ab", b""),)}, FormatError),
        ({"chunks": (Chunk("exif", b""), Chunk("exif", b""))}, FormatError),
        ({"chunks": (Chunk("zzzz", b""),) * 65}, LimitError),
    ],
)
def test_pack_refuses_what_cannot_be_stored(change: dict, kind: type) -> None:
    with pytest.raises(kind):
        pack(dataclasses.replace(PLAIN, **change))
