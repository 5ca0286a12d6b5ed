"""Fuzzing: mutated .looc files, metadata and weights files may only be refused with looc's own errors, soon, and in little memory.

    python tools/fuzz.py [--scale 1] [--only info,decompress] [--out docs/results/fuzz.json]
    python tools/fuzz.py --replay decompress:1234            # one case again, with its trace

Each case is made from its target's name and its number alone, so a finding is named by both. Half of the mutations work
on fields (sizes, lengths, quality, chunks, payload, each set to extremes or damaged) and half on raw bytes; checksums,
also that of the decoded codes, are then repaired in most cases, so that damage reaches the code behind them. Every target
runs in a process of its own; its address space is limited to `--room-mib` above what it has before each case.

A defect is any exception that the target does not document, a crash, a case of more than 2 s of CPU time, or one that
needs more memory than there is. Exit code 1 when there is any.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import json
import os
import random
import resource
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np
from PIL import Image

from looc_codec import images, registry
from looc_codec.format import container
from looc_codec.format.container import Chunk
from looc_codec.errors import LoocError, ModelError

GOLDEN = ROOT / "tests" / "golden"
TINY_WEIGHTS = GOLDEN / "looc-golden-details.safetensors"
OLD_WEIGHTS = GOLDEN / "looc-golden.safetensors"
"""Of a model as they were first: no trellis, no details."""
MAX_PIXELS = 2**16
"""The decoders' pixel limit here, as with --max-pixels: files are small, and so is what they may claim."""
LONGEST_SECONDS = 2.0
CASES = {"info": 60_000, "unpack": 60_000, "pillow": 30_000, "decompress": 20_000, "old": 5_000, "preview": 8_000, "verify": 8_000, "metadata": 20_000, "weights": 3_000, "graphs": 3_000, "photo": 2_000}
EXTREMES = (0, 1, 2, 15, 16, 17, 127, 128, 255, 256, 16383, 16384, 2**16 - 1, 2**16, 2**21, 2**30 - 1, 2**30, 2**31 - 1, 2**31, 2**32 - 1, 2**35 - 1)


# --- files as loose fields, which hold what no writer of looc would write ---------------------------------------------


@dataclass
class Fields:
    """The fields of a .looc file, each free to be wrong. `lengths`, `chunk_lengths`, `flags` and `filter_length` replace true values where set."""

    magic: bytes = container.MAGIC
    version: int = container.FORMAT_VERSION
    segment_count: int | None = None
    width: int = 1
    height: int = 1
    level: int = 50
    fingerprint: bytes = bytes(8)
    segments: list[bytes] = field(default_factory=list)
    lengths: dict[int, int] = field(default_factory=dict)
    code_checksum: int = 0
    chunks: list[tuple[bytes, bytes]] = field(default_factory=list)
    chunk_count: int | None = None
    chunk_lengths: dict[int, int] = field(default_factory=dict)
    chunk_flag: bool | None = None
    long_varints: bool = False
    colour: int = 0
    filter: bytes = b""
    flags: int | None = None
    filter_length: int | None = None

    def varint(self, value: int) -> bytes:
        encoded = bytearray()
        while value >= 0x80:
            encoded.append(value & 0x7F | 0x80)
            value >>= 7
        encoded.append(value)
        if self.long_varints:
            encoded[-1] |= 0x80
            encoded.append(0)
        return bytes(encoded)

    def pack(self) -> bytes:
        """The bytes, with right checksums whatever else is wrong."""
        count = len(self.segments) if self.segment_count is None else self.segment_count
        flag = bool(self.chunks) if self.chunk_flag is None else self.chunk_flag
        flags = self.colour << 4 | bool(self.filter) << 6 if self.flags is None else self.flags
        version = (self.version & 15) << 4
        parts = [self.magic, bytes([version, flags | count & 15] if flags else [version | count & 15]), self.varint(self.width), self.varint(self.height),
                 bytes([flag << 7 | self.level & 127]), self.fingerprint]
        parts += [self.varint(self.lengths.get(index, len(segment))) for index, segment in enumerate(self.segments)]
        parts.append((self.code_checksum & 0xFFFFFFFF).to_bytes(4, "big"))
        if flags & 64:
            parts += [bytes([(len(self.filter) if self.filter_length is None else self.filter_length) & 255]), self.filter]
        if flag:
            parts.append(self.varint(len(self.chunks) if self.chunk_count is None else self.chunk_count))
            for index, (name, data) in enumerate(self.chunks):
                parts += [name, self.varint(self.chunk_lengths.get(index, len(data))), data, zlib.crc32(name + data).to_bytes(4, "big")]
        body = b"".join(parts + self.segments)
        return body + zlib.crc32(body).to_bytes(4, "big")


def fields_of(data: bytes) -> Fields:
    file = container.unpack(data)
    return Fields(
        width=file.width, height=file.height, level=file.level, fingerprint=file.fingerprint, segments=list(file.segments),
        code_checksum=file.code_checksum, chunks=[(chunk.type.encode(), chunk.data) for chunk in file.chunks],
        colour=int(file.colour), filter=file.filter,
    )


def with_file_checksum(data: bytes) -> bytes:
    return data[:-4] + zlib.crc32(data[:-4]).to_bytes(4, "big") if len(data) > 4 else data


def with_png_checksums(data: bytes) -> bytes:
    """A damaged PNG with the checksums of its chunks repaired as far as its structure can still be followed."""
    out, position = bytearray(data), 8
    while position + 12 <= len(out):
        end = position + 8 + int.from_bytes(out[position : position + 4], "big")
        if end + 4 > len(out):
            break
        out[end : end + 4] = zlib.crc32(out[position + 4 : end]).to_bytes(4, "big")
        position = end + 4
    return bytes(out)


# --- mutations --------------------------------------------------------------------------------------------------------


def damaged(data: bytes, chance: random.Random, others: list[bytes]) -> bytes:
    """One to four raw mutations of a byte string."""
    out = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        size = len(out)
        at = chance.randrange(size + 1)
        span = min(size - at, chance.choice((1, 1, 2, 4, 8, 32, 200)))
        kind = chance.randrange(10)
        if kind == 0 and size:
            out[min(at, size - 1)] ^= 1 << chance.randrange(8)
        elif kind == 1 and size:
            out[min(at, size - 1)] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        elif kind == 2:
            del out[at:]
        elif kind == 3:
            del out[at : at + span]
        elif kind == 4:
            out[at:at] = chance.randbytes(chance.choice((1, 2, 4, 16, 300)))
        elif kind == 5:
            out[at:at] = out[at : at + span] * chance.choice((1, 1, 2, 50))
        elif kind == 6:
            out[at : at + span] = chance.randbytes(span)
        elif kind == 7:
            other = chance.choice(others)
            start = chance.randrange(len(other) + 1)
            out[at:] = other[start:]
        elif kind == 8:
            number = chance.choice(EXTREMES)
            width = chance.choice((1, 2, 4, 8))
            out[at : at + width] = (number & (256**width - 1)).to_bytes(width, chance.choice(("big", "little")))
        else:
            out[at : at + span] = bytes([chance.choice((0, 255))]) * span
    return bytes(out)


def forged(fields: Fields, chance: random.Random, seeds: list[Fields]) -> Fields:
    """One to three fields set to extremes, exchanged with another file's, or damaged; `fields` is changed."""
    for _ in range(chance.choice((1, 1, 2, 3))):
        other = chance.choice(seeds)
        kind = chance.randrange(18)
        if kind == 0:
            setattr(fields, chance.choice(("width", "height")), chance.choice(EXTREMES))
        elif kind == 1:
            fields.width, fields.height = max(1, fields.width + chance.randrange(-40, 90)), max(1, fields.height + chance.randrange(-40, 90))
        elif kind == 2:
            fields.width, fields.height = chance.choice(((1, MAX_PIXELS), (MAX_PIXELS, 1), (256, 256), (1, 1), (other.width, other.height)))
        elif kind == 3:
            fields.level = chance.randrange(128)
        elif kind == 4:
            fields.version = chance.randrange(16)
        elif kind == 5:
            fields.segment_count = chance.randrange(16)
        elif kind == 6 and fields.segments:
            fields.lengths[chance.randrange(len(fields.segments))] = chance.choice(EXTREMES)
        elif kind == 7:
            fields.segments = [chance.choice((part, b"", chance.randbytes(chance.randrange(80)))) for part in fields.segments]
        elif kind == 8:
            fields.segments = (fields.segments * 2)[: chance.randrange(1, 16)]
        elif kind in (9, 10, 11) and fields.segments:
            index = chance.randrange(len(fields.segments))
            fields.segments[index] = damaged(fields.segments[index], chance, [part for part in other.segments] or [b""])
        elif kind == 12:
            fields.fingerprint = chance.choice((bytes(8), other.fingerprint, chance.randbytes(8), chance.randbytes(chance.randrange(12))))
        elif kind == 13:
            fields.long_varints = True
        elif kind == 14:
            fields.chunks = [*fields.chunks, *other.chunks, (chance.choice((b"iccp", b"exif", b"xmp_", b"ALPH", b"abcd", b"Abcd", b"\0\xff__")), chance.randbytes(chance.randrange(64)))]
            chance.shuffle(fields.chunks)
            fields.chunks *= chance.choice((1, 1, 1, 40))
            fields.chunk_flag = chance.choice((None, None, True, False))
            fields.chunk_count = chance.choice((None, None, None, *EXTREMES))
        elif kind == 15:
            kept = fields.filter or other.filter
            fields.filter = chance.choice((b"", other.filter, chance.randbytes(chance.randrange(1, 256)), damaged(kept, chance, [other.filter or b"x"])[:255]))
        elif kind == 16:
            fields.flags = chance.choice((None, 16 * chance.randrange(16)))
            fields.filter_length = chance.choice((None, 0, 1, 255, chance.randrange(256)))
        elif fields.chunks:
            index = chance.randrange(len(fields.chunks))
            name, data = fields.chunks[index]
            fields.chunks[index] = (name, damaged(data, chance, [part for _, part in other.chunks] or [b""]))
            if chance.random() < 0.2:
                fields.chunk_lengths[index] = chance.choice(EXTREMES)
    return fields


# --- seeds ------------------------------------------------------------------------------------------------------------


def pattern(width: int, height: int, seed: int) -> np.ndarray:
    """Waves and noise, `(H, W, 3)` uint8."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    waves = 128 + 90 * np.sin(rows[..., None] / (3 + seed) + columns[..., None] / np.array([4, 7, 11]))
    return np.clip(waves + generator.normal(0, 12, waves.shape), 0, 255).astype(np.uint8)


def pictures_with_metadata() -> list[images.Picture]:
    from PIL import ImageCms

    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    tags = Image.Exif()
    tags[0x010F], tags[0x0110], tags[0x0112] = "maker", "camera", 1
    tags[0x8769] = {0x829A: (1, 50), 0x9003: "2020:01:02 03:04:05"}
    tags[0x8825] = {1: "N", 2: (1.0, 2.0, 3.0)}
    exif = tags.tobytes().removeprefix(b"Exif\0\0")
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description tiff:Orientation="1"/></rdf:RDF></x:xmpmeta>'
    alpha = pattern(24, 20, 3)[..., 0]
    return [
        images.Picture(pattern(24, 20, 1), alpha=alpha, icc=icc, exif=exif, xmp=xmp),
        images.Picture(pattern(17, 33, 2), icc=icc, xmp=xmp),
        images.Picture(pattern(40, 9, 4), exif=exif, alpha=pattern(40, 9, 5)[..., 1] // 128 * 255),
        images.Picture(pattern(64, 48, 6)),
        images.Picture(pattern(1, 1, 7)),
    ]


# --- targets: what one case calls, and which exceptions are the documented answers ------------------------------------


@dataclass(frozen=True)
class Target:
    """`run(case, chance)` works on one mutated file; `allowed` are the documented errors."""

    run: Callable[[bytes, random.Random], None]
    mutate: Callable[[random.Random], bytes]
    allowed: tuple[type[BaseException], ...]
    seeds: list[bytes]


def build_target(name: str) -> Target:
    if name == "metadata":
        return metadata_target()
    if name == "weights":
        return weights_target()
    if name == "graphs":
        return graphs_target()
    from looc_codec import api
    from looc_codec.codec.model import read_model

    model = api.load_model() if name == "photo" else read_model(OLD_WEIGHTS if name == "old" else TINY_WEIGHTS)
    seeds = [api.compress_picture(picture, level=level, model=model).data for picture, level in zip(pictures_with_metadata(), (30, 90, 5, 60, 50), strict=True)]
    if name != "photo":
        seeds += [path.read_bytes() for path in sorted(GOLDEN.glob("*.looc"))]
    parsed = [fields_of(data) for data in seeds]
    decodes = name in ("decompress", "old", "preview", "verify", "photo")

    def mutate(chance: random.Random) -> bytes:
        index = chance.randrange(len(seeds))
        if chance.random() < 0.5:
            data = damaged(seeds[index], chance, seeds)
            return with_file_checksum(data) if chance.random() < 0.8 else data
        fields = forged(fields_of(seeds[index]), chance, parsed)
        if decodes and chance.random() < 0.5:
            forge_checksums(fields, model)
        return fields.pack()

    def run_info(data: bytes, chance: random.Random) -> None:
        from looc_codec.cli import info

        path.write_bytes(data)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            info.info([str(path)], as_json=chance.random() < 0.5)

    def run_decompress(data: bytes, chance: random.Random) -> None:
        api.decompress(data, model=model, max_pixels=MAX_PIXELS)

    def run_preview(data: bytes, chance: random.Random) -> None:
        groups, scale = chance.choice((None, 0, 1, 2)), chance.choice((1, 1, 1 / 2, 1 / 4, 1 / 8, 1 / 16))
        part = data[: chance.randrange(len(data) + 1)]
        api.decompress(part, model=model, max_pixels=MAX_PIXELS, groups=groups, scale=scale, allow_truncated=True)

    def run_pillow(data: bytes, chance: random.Random) -> None:
        # A file on disk reads by the length asked for, which a header may claim; bytes in memory do not.
        path.write_bytes(data)
        with Image.open(chance.choice((path, io.BytesIO(data))), formats=["LOOC"]) as image:
            image.getexif()
            image.verify()

    path = Path(tempfile.mkdtemp()) / "case.looc"
    if name == "info":
        import typer

        return Target(run_info, mutate, (typer.Exit,), seeds)
    if name == "unpack":
        return Target(lambda data, chance: container.unpack(data) and None, mutate, (LoocError,), seeds)
    if name == "preview":
        return Target(run_preview, mutate, (LoocError,), seeds)
    if name == "verify":
        return Target(lambda data, chance: api.verify(data, model=model, max_pixels=MAX_PIXELS), mutate, (LoocError,), seeds)
    if name == "pillow":
        import looc_codec.pillow_plugin  # noqa: F401

        Image.MAX_IMAGE_PIXELS = MAX_PIXELS
        return Target(run_pillow, mutate, (OSError, Image.DecompressionBombError), seeds)
    return Target(run_decompress, mutate, (LoocError,), seeds)


def forge_checksums(fields: Fields, model) -> None:
    """Sets the checksums of the codes, of the latent and of details, to those of what the payload decodes to, so that a forged one passes them; they stay where it does not decode."""
    from looc_codec import api
    from looc_codec.codec import decoder as decoding
    from looc_codec.format.order import grid_size

    recorded: list[decoding.CodeChecksum] = []

    class Recording(decoding.CodeChecksum):
        def __init__(self, segments: int) -> None:
            super().__init__(segments)
            recorded.append(self)

    if not 1 <= fields.level <= 100 or not 0 < fields.width * fields.height <= MAX_PIXELS:
        return
    count = len(model.config.groups)
    grid, decoder = grid_size(fields.width, fields.height), api.decoder_for(model, threads=1)
    original, decoding.CodeChecksum = decoding.CodeChecksum, Recording
    try:
        # Only the numbers are wanted here; the case itself runs afterwards and is judged. A first try says what the checksum of the latent should be.
        with contextlib.suppress(LoocError):
            decoder.decode_latent(tuple(fields.segments[:count]), fields.code_checksum, grid, fields.level)
        if not recorded:
            return
        fields.code_checksum = recorded.pop().value
        if not model.has_details or len(fields.segments) != count + 1 or not fields.segments[count]:
            return
        try:
            latent = decoder.decode_latent(tuple(fields.segments[:count]), fields.code_checksum, grid, fields.level)
        except LoocError:
            return
        recorded.clear()
        with contextlib.suppress(LoocError):
            decoder.decode_details(fields.segments[count], latent, fields.level)
        if recorded:
            fields.segments[count] = bytes([recorded[0].value & 255]) + fields.segments[count][1:]
    finally:
        decoding.CodeChecksum = original


def metadata_target() -> Target:
    """Chunks of a decoded picture, damaged behind their checksums, and written as every picture format."""
    pictures = pictures_with_metadata()[:3]
    chunks = [images.chunks_of_picture(picture) for picture in pictures]
    everything = [chunk.data for part in chunks for chunk in part]

    def mutate(chance: random.Random) -> bytes:
        index = chance.randrange(len(pictures))
        parts = [bytes([index])]
        for chunk in chunks[index]:
            data = damaged(chunk.data, chance, everything) if chance.random() < 0.6 else chunk.data
            if data.startswith(b"\x89PNG") and chance.random() < 0.8:
                data = with_png_checksums(data)
            parts += [struct.pack(">4sI", chunk.type.encode(), len(data)), data]
        return b"".join(parts)

    def run(case: bytes, chance: random.Random) -> None:
        index, position, given = case[0], 1, []
        while position < len(case):
            name, length = struct.unpack(">4sI", case[position : position + 8])
            given.append(Chunk(name.decode(), case[position + 8 : position + 8 + length]))
            position += 8 + length
        picture = images.picture_with_chunks(pictures[index].rgb, given)
        kinds = ("png", "tif", "webp") if picture.alpha is not None else ("png", "tif", "webp", "jpg", "bmp")
        kind = chance.choice(kinds)
        encoded = io.BytesIO()
        images.write_picture(picture, encoded, format=kind)
        # What was written must be a picture that can be read again, pixels untouched where the format is lossless.
        back = images.read_picture(encoded.getvalue(), name="written")
        if kind != "jpg" and back.rgb.shape == picture.rgb.shape and picture.alpha is None and not np.array_equal(back.rgb, picture.rgb):
            raise AssertionError(f"pixels changed on the way through {kind}")

    return Target(run, mutate, (LoocError,), [])


def weights_target() -> Target:
    """Weights files whose header, configuration or tensors are damaged; most get the fingerprint that fits their tensors."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    from looc_codec.codec.model import CRITICAL
    from looc_codec.config import LoocConfig
    from looc_codec.format.integers import fingerprint_of

    seed = TINY_WEIGHTS.read_bytes()
    header_bytes = int.from_bytes(seed[:8], "little")
    header, tensors = json.loads(seed[8 : 8 + header_bytes]), seed[8 + header_bytes :]
    path = Path(tempfile.mkdtemp()) / "case.safetensors"

    def mutate(chance: random.Random) -> bytes:
        kind = chance.randrange(5)
        if kind == 0:
            return damaged(seed, chance, [seed])
        if kind == 1:
            head = damaged(seed[8 : 8 + header_bytes], chance, [seed[8 : 8 + header_bytes]])
            return len(head).to_bytes(8, "little") + head + tensors
        changed = json.loads(json.dumps(header))
        looc = json.loads(changed["__metadata__"]["looc"])
        odd = (None, True, -1, 0, 1, 3, 2**16, 2**31, 2**63, 1e30, float("nan"), "", "x", "\x1b[2J", [], [1], [[1]], {}, "../../etc")
        if kind == 2:
            where = looc["config"] if chance.random() < 0.7 else looc
            key = chance.choice(sorted(where))
            numbers = ([4] * 4, [2**20], [-8, 32], [8, 16, 0], [0.5, 1], ["a"])
            where[key] = chance.choice(numbers if isinstance(where[key], list) and chance.random() < 0.7 else odd)
        elif kind == 3:
            key = chance.choice(sorted(name for name in changed if name != "__metadata__"))
            entry = changed[key]
            what = chance.choice(("dtype", "shape", "data_offsets", "drop", "rename"))
            if what == "dtype":
                entry["dtype"] = chance.choice(("F32", "I8", "U8", "I64", "BOOL", "F16", "nonsense"))
            elif what == "shape":
                entry["shape"] = chance.choice(([], [1], [2**40], [0], entry["shape"][::-1], [*entry["shape"], 1]))
            elif what == "data_offsets":
                entry["data_offsets"] = chance.choice(([0, 0], [0, 2**62], [5, 1], [entry["data_offsets"][0], entry["data_offsets"][1] + 4]))
            elif what == "drop":
                del changed[key]
            else:
                changed[chance.choice(("core.prior.x", "analysis.x", key + "x"))] = changed.pop(key)
        parts = bytearray(tensors)
        if kind == 4:
            start, end = changed[chance.choice([name for name in changed if name.startswith(CRITICAL)])]["data_offsets"]
            parts[start:end] = damaged(bytes(parts[start:end]), chance, [tensors])[: end - start].ljust(end - start, b"\xff")
        with contextlib.suppress(SafetensorError, LoocError, ValueError, TypeError, KeyError):
            head = json.dumps(changed).encode()
            core = {key.removeprefix(CRITICAL): value for key, value in load(len(head).to_bytes(8, "little") + head + parts).items() if key.startswith(CRITICAL)}
            looc["fingerprint"] = fingerprint_of(LoocConfig.from_dict(looc["config"]), core).hex()
        changed["__metadata__"]["looc"] = json.dumps(looc)
        head = json.dumps(changed).encode()
        return len(head).to_bytes(8, "little") + head + parts

    def run(case: bytes, chance: random.Random) -> None:
        path.write_bytes(case)
        there_and_back(path, chance)

    return Target(run, mutate, (ModelError,), [])


def there_and_back(path: Path, chance: random.Random) -> None:
    """What loads must also work: whatever the integers and networks of a weights file say, a picture goes there and back."""
    from looc_codec import api
    from looc_codec.codec.model import read_model

    registry.read_entry(path)
    model = read_model(path)
    picture = api.decompress(api.compress(pattern(40, 24, 1), level=chance.randrange(1, 101), model=model), model=model)
    assert picture.size == (40, 24)


def graphs_target() -> Target:
    """Weights files whose networks are damaged, exchanged or given other tensors, with the checksum that fits them."""
    from looc_codec.codec.engine import Graph
    from looc_codec.codec.model import CodecModel, read_model, write_model

    model = read_model(TINY_WEIGHTS)
    names = sorted(model.graphs)
    networks = [model.graphs[name].onnx for name in names]
    path = Path(tempfile.mkdtemp()) / "case.safetensors"

    def mutate(chance: random.Random) -> bytes:
        graphs = dict(model.graphs)
        for name in chance.sample(names, chance.choice((1, 1, 2, 4))):
            graph, kind = graphs[name], chance.randrange(4)
            if kind == 0:
                # A single byte leaves most of the structure whole: a size, a stride, the name of an operation.
                data = bytearray(graph.onnx)
                data[chance.randrange(len(data))] = chance.choice((0, 1, 2, 3, 8, 127, 255, chance.randrange(256)))
                graphs[name] = Graph(bytes(data), graph.tensors)
            elif kind == 1:
                graphs[name] = Graph(damaged(graph.onnx, chance, networks), graph.tensors)
            elif kind == 2:
                # One that takes inputs of the same names comes further.
                kin = [other for other in names if other.partition(".")[0] == name.partition(".")[0]]
                graphs[name] = model.graphs[chance.choice(kin if chance.random() < 0.8 else names)]
            else:
                tensors = list(graph.tensors) or [names[0]]
                at = chance.randrange(len(tensors))
                tensors[at : at + 1] = chance.choice(([], [tensors[-1 - at]], [tensors[at]] * 2, ["none"], ["core.codebook.live"]))
                graphs[name] = Graph(graph.onnx, tuple(tensors))
        write_model(CodecModel(model.config, dict(model.core), dict(model.transforms), dict(model.shapes), graphs), path)
        return path.read_bytes()

    def run(case: bytes, chance: random.Random) -> None:
        path.write_bytes(case)
        there_and_back(path, chance)

    # A network may ask for more memory than there is, and does not get it. That cannot be told from a machine with too little.
    return Target(run, mutate, (ModelError, MemoryError), [])


# --- one target in a process of its own -------------------------------------------------------------------------------


def status_kib(name: str) -> int:
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith(name):
                return int(line.split()[1])
    raise KeyError(name)


def start_peak_kib() -> int:
    """Sets the kernel's high-water mark back to what is resident now."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return status_kib("VmRSS")


def one_case(target: Target, name: str, number: int) -> tuple[bytes, str, str | None]:
    """The case's bytes, its outcome, and the trace if that is a defect."""
    chance = random.Random(f"{name}:{number}")
    data = target.mutate(chance)
    try:
        target.run(data, chance)
        return data, "accepted", None
    except target.allowed as error:
        return data, type(error).__name__, None
    # pyo3's PanicException is no Exception; whatever arrives here is a finding.
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return data, type(error).__name__, traceback.format_exc()


def work(name: str, count: int, room_mib: int, progress: Path) -> dict:
    import faulthandler

    faulthandler.enable()
    os.environ["LOOC_THREADS"] = "1"
    warnings.simplefilter("ignore")
    target = build_target(name)
    # Warming up: libraries keep buffers and caches that belong to no case.
    for number in range(200 if count > 5000 else 20):
        one_case(target, name, -1 - number)
    start_mib = status_kib("VmSize") / 1024
    outcomes: collections.Counter[str] = collections.Counter()
    defects, slowest, largest = [], (0.0, -1), (0, -1)
    started = time.perf_counter()
    with progress.open("r+b", buffering=0) as current:
        for number in range(count):
            os.pwrite(current.fileno(), b"%12d" % number, 0)
            before = start_peak_kib()
            # Anew for each case: libraries keep something for every new size of picture (30 MiB of address space for 1000 cases, hardly any of
            # it resident), and crashed when a limit for the whole process ran out after 5000.
            limit = status_kib("VmSize") * 1024 + room_mib * 2**20
            resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
            begin = time.process_time()
            data, outcome, trace = one_case(target, name, number)
            seconds = time.process_time() - begin
            peak = status_kib("VmHWM") - before
            outcomes[outcome] += 1
            slowest, largest = max(slowest, (seconds, number)), max(largest, (peak, number))
            if trace is None and seconds > LONGEST_SECONDS:
                outcome, trace = "slow", f"{seconds:.2f} s of CPU time"
            if trace is not None:
                defects.append({"case": f"{name}:{number}", "kind": outcome, "bytes": len(data), "trace": trace})
                print(f"{name}:{number}: {outcome}\n{trace}", file=sys.stderr, flush=True)
    return {
        "cases": count, "outcomes": dict(outcomes.most_common()), "defects": defects,
        "slowest_cpu_seconds": round(slowest[0], 4), "slowest_case": f"{name}:{slowest[1]}",
        "largest_memory_mib": round(largest[0] / 1024, 1), "largest_memory_case": f"{name}:{largest[1]}",
        "address_space_growth_mib": round(status_kib("VmSize") / 1024 - start_mib), "seconds": round(time.perf_counter() - started, 1),
    }


def replay(case: str) -> None:
    name, number = case.split(":")
    target = build_target(name)
    data, outcome, trace = one_case(target, name, int(number))
    print(f"{case}: {len(data)} bytes, {outcome}\n{data[:200].hex()}")
    if trace:
        print(trace)
        raise SystemExit(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="this many times the usual number of cases")
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(CASES), help="targets, separated by commas")
    parser.add_argument("--room-mib", type=int, default=128, help="memory that one case may need")
    parser.add_argument("--out", type=Path, help="write the figures as JSON here; figures of targets that did not run now are kept")
    parser.add_argument("--replay", metavar="TARGET:NUMBER")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--progress", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if unknown := set(arguments.only) - set(CASES):
        parser.error(f"no target {', '.join(sorted(unknown))}; use {', '.join(CASES)}")
    if arguments.replay:
        replay(arguments.replay)
        return
    if arguments.work:
        count = max(1, round(CASES[arguments.work] * arguments.scale))
        print(json.dumps(work(arguments.work, count, arguments.room_mib, arguments.progress)))
        return
    limits = {"room_mib": arguments.room_mib, "max_pixels": MAX_PIXELS, "longest_seconds_allowed": LONGEST_SECONDS}
    earlier = json.loads(arguments.out.read_text()) if arguments.out and arguments.out.exists() else {}
    if {key: earlier.get(key) for key in limits} != limits:
        earlier = {"targets": {}}
    report: dict = {**limits, "targets": earlier["targets"]}
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.only:
            progress = Path(folder) / name
            progress.write_bytes(b" " * 12)
            command = [sys.executable, __file__, "--work", name, "--scale", str(arguments.scale), "--room-mib", str(arguments.room_mib), "--progress", str(progress)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": folder})
            if done.returncode:
                result = {"crashed_at": f"{name}:{progress.read_text().strip()}", "exit_code": done.returncode}
                print(f"{name}: the process ended with {done.returncode} at case {progress.read_text().strip()}", flush=True)
            else:
                result = json.loads(done.stdout.splitlines()[-1])
                outcomes = ", ".join(f"{kind} {number}" for kind, number in result["outcomes"].items())
                print(f"{name}: {result['cases']} cases, {len(result['defects'])} defects; {outcomes}; slowest {result['slowest_cpu_seconds']:.3f} s,"
                      f" largest {result['largest_memory_mib']:.0f} MiB; {result['seconds']:.0f} s", flush=True)
            failed |= "crashed_at" in result or bool(result["defects"])
            report["targets"][name] = result
            report["targets"] = {known: report["targets"][known] for known in CASES if known in report["targets"]}
            report["cases"] = sum(part.get("cases", 0) for part in report["targets"].values())
            report["defects"] = sum(len(part.get("defects", [0])) for part in report["targets"].values())
            # After each target, so that a campaign that is stopped keeps what it has.
            if arguments.out:
                arguments.out.parent.mkdir(parents=True, exist_ok=True)
                arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"{report['cases']} mutated files, {report['defects']} defects")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
