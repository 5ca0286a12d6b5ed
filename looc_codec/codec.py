"""Compress and decompress: joins pictures, model, entropy coder and container. The only module that knows all four.

    data = looc_codec.compress(Image.open("photo.png"), quality=50)
    image = looc_codec.decompress(data)
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from looc_codec import images, progress, registry
from looc_codec.config import QUALITY_MAX, QUALITY_MIN
from looc_codec.format.constants import PATCH
from looc_codec.format.container import DEFAULT_MAX_PIXELS, Colour, Container, pack, unpack
from looc_codec.format.entropy import CodeChecksum, SegmentDecoder, SegmentEncoder, TableBank
from looc_codec.errors import FormatError, ImageError, ModelError
from looc_codec.images import Picture
from looc_codec.model import LoocModel
from looc_codec.model import load_model as read_model
from looc_codec.prior import LATENT_LIMIT, LATENT_ONE, CodingStep
from looc_codec.quantizers.codebook import ENCODER_LAMBDA
from looc_codec.refine import Coded, bits_per_error, refine
from looc_codec.transforms import cells_needed, without_tf32
from looc_codec.wiener import Statistics, Wiener

DEFAULT_MODEL = "photo"
DEFAULT_QUALITY = 50
EFFORT_ROUNDS = (0, 2, 6, 16)
"""Rounds of refinement of each effort; docs/EXPERIMENTS.md, section 20, has what they gain and cost."""
ANALYSIS_SHARE, FILTER_SHARE, LATENT_SHARE, ROUND_COST = 0.25, 0.4, 0.25, 2
"""For progress: the analysis's share of the time of compressing without effort, the filter's of the rest, that of the codes in decompressing, and what a
round of effort takes in times of compressing without it."""
DETAIL_SHARE = 0.4
"""That of the details, where a picture has them, of what comes after the analysis."""
TILE_POSITIONS = 64
"""Latent positions along a tile's side (1024 pixels); bounds the memory of the transforms."""
FIT_TILE_POSITIONS, FIT_TILES = 24, 8
"""Side of the tiles that the filter of a large picture is fitted on, and their number: 1.2 megapixels."""

_OTHER_CODES = "the decoded codes do not match the checksum in the file: it is damaged, or arithmetic on this machine is not exact"


@functools.lru_cache(maxsize=4)
def _cached_model(path: str, modified_ns: int, device: str) -> LoocModel:
    return read_model(Path(path), device)


def load_model(spec: str | Path = DEFAULT_MODEL, *, device: str = "cpu") -> LoocModel:
    """The model of an installed name ("photo") or of a weights file; read once per process.

    Raises ModelError when there is no such model, its file is damaged, or `device` is not there.
    """
    if device != "cpu" and not (device.startswith("cuda") and torch.cuda.is_available()):
        raise ModelError(f"device {device!r} is not available here; leave --device away to run on the CPU")
    path = Path(registry.find_model(spec).path)
    return _cached_model(str(path), path.stat().st_mtime_ns, device)


def model_for_file(fingerprint: bytes, model: LoocModel | str | Path | None, device: str = "cpu") -> LoocModel:
    """The given model if it fits the file's fingerprint, or the installed one that does; ModelError otherwise."""
    if model is None:
        return load_model(registry.find_by_fingerprint(fingerprint).path, device=device)
    if not isinstance(model, LoocModel):
        model = load_model(model, device=device)
    if model.fingerprint != fingerprint:
        raise ModelError(
            f"the file was written with model {fingerprint.hex()}, not with {model.name} ({model.fingerprint.hex()}); use that model"
        )
    return model


# --- transforms, tiled ------------------------------------------------------------------------------------------------


def analysis_halo(blocks: tuple[int, int]) -> int:
    """Positions around a tile that its latent depends on, from the number of blocks at 1/16 and 1/8 of the resolution.

    A block sees one cell further; the lapped transform, whose outermost position in a tile sees padding, one position.
    """
    wide, fine = blocks
    return wide + max(1, -(-fine // 2))


def synthesis_halo(blocks: tuple[int, int, int]) -> int:
    """Positions around a tile that its pixels depend on, from the number of blocks at 1/16, 1/8 and 1/4 of the resolution."""
    return blocks[0] + cells_needed(blocks)[0]


def tiles(length: int, tile: int) -> list[tuple[int, int]]:
    return [(start, min(start + tile, length)) for start in range(0, length, tile)]


@torch.inference_mode()
def analyse(rgb: np.ndarray, quality: int, model: LoocModel, *, tile: int = TILE_POSITIONS) -> Tensor:
    """Pixels `(H, W, 3)` uint8 → latent `(d, ceil(H/16), ceil(W/16))` float32 in quantisation steps, tile by tile."""
    height, width = -(-rgb.shape[0] // PATCH), -(-rgb.shape[1] // PATCH)
    config = model.config
    device = next(model.analysis.parameters()).device
    halo = analysis_halo(config.analysis_blocks)
    latent = torch.empty(config.channels, height, width)
    level = torch.tensor([float(quality)], device=device)
    for top, bottom in tiles(height, tile):
        for left, right in tiles(width, tile):
            y0, y1, x0, x1 = max(0, top - halo), min(height, bottom + halo), max(0, left - halo), min(width, right + halo)
            part = rgb[y0 * PATCH : y1 * PATCH, x0 * PATCH : x1 * PATCH]
            missing = ((0, (y1 - y0) * PATCH - part.shape[0]), (0, (x1 - x0) * PATCH - part.shape[1]), (0, 0))
            # np.pad copies, which also makes the pixels writable, as torch wants them.
            pixels = torch.from_numpy(np.pad(part, missing, mode="edge")).to(device).permute(2, 0, 1)[None].float()
            with without_tf32():
                coded = model.analysis(pixels.contiguous(memory_format=torch.channels_last), level)[0].cpu()
            latent[:, top:bottom, left:right] = coded[:, top - y0 : bottom - y0, left - x0 : right - x0]
            progress.report((top * width + right * (bottom - top)) / (height * width))
    return latent


@torch.inference_mode()
def synthesise(
    latent_hat: Tensor, size: tuple[int, int], quality: int, model: LoocModel, *, details: Tensor | None = None, wiener: Wiener | None = None, grey: bool = False,
    tile: int = TILE_POSITIONS,
) -> np.ndarray:  # fmt: skip
    """Quantised latent `(d, h, w)` int32 (1/16 steps) → pixels `(H, W, 3)` uint8 of `size` (H, W), tile by tile, with the picture's details and through its filter if it has them.

    With `grey` all planes are the mean of the three before rounding: 0.0-0.1 dB better than Rec. 601 weights (3
    validation pictures, 3 qualities), since the errors of the planes are alike.
    """
    height, width = latent_hat.shape[1:]
    rgb = np.empty((*size, 3), np.uint8)
    for top, bottom in tiles(height, tile):
        for left, right in tiles(width, tile):
            pixels, context = synthesised_tile(latent_hat, (top, bottom, left, right), quality, model, wiener is not None, details)
            if wiener is not None:
                pixels = wiener.apply(pixels, context)
            if grey:
                pixels = pixels.mean(0, keepdim=True).expand(3, -1, -1).clone()
            pixels = pixels.round_().clamp_(0, 255).to(torch.uint8).permute(1, 2, 0).cpu().numpy()
            rows, columns = slice(top * PATCH, min(bottom * PATCH, size[0])), slice(left * PATCH, min(right * PATCH, size[1]))
            rgb[rows, columns] = pixels[: rows.stop - rows.start, : columns.stop - columns.start]
            progress.report((top * width + right * (bottom - top)) / (height * width))
    return rgb


Tile = tuple[int, int, int, int]
"""First and last-plus-one row, first and last-plus-one column of positions."""
Pixels = tuple[Tensor, tuple[int, int, int, int]]
"""Pixels `(3, H, W)` float32 of a tile, and how many of them at top, bottom, left and right are context."""


def synthesised_tile(latent_hat: Tensor, tile: Tile, quality: int, model: LoocModel, context: bool, details: Tensor | None = None) -> Pixels:
    """Pixels of the positions of a tile, on the model's device; with `context` 4 pixels more on each side on which the picture goes on."""
    (top, bottom, left, right), (_, height, width) = tile, latent_hat.shape
    device, halo = next(model.synthesis.parameters()).device, synthesis_halo(model.config.synthesis_blocks)
    y0, y1, x0, x1 = max(0, top - halo), min(height, bottom + halo), max(0, left - halo), min(width, right + halo)
    part = (latent_hat[:, y0:y1, x0:x1].to(device).float() / LATENT_ONE)[None]
    margins = (top - y0, y1 - bottom, left - x0, x1 - right)
    with without_tf32():
        pixels = model.synthesis(part.contiguous(memory_format=torch.channels_last), torch.tensor([float(quality)], device=device), margins, int(context))[0]
    return with_details((pixels, tuple(4 * (context and margin > 0) for margin in margins)), tile, quality, model, details)


def with_details(tile_pixels: Pixels, tile: Tile, quality: int, model: LoocModel, details: Tensor | None) -> Pixels:
    """The pixels of a tile with details `(detail_channels, h, w)` int16 (1/16 steps) added, if there are any."""
    pixels, sides = tile_pixels
    if details is None:
        return tile_pixels
    # One position more where there is context, of which the outer pixels are cut off again.
    above, below, before, after = (int(side > 0) for side in sides)
    top, bottom, left, right = tile
    own = details[:, top - above : bottom + below, left - before : right + after].to(pixels.device).float() / LATENT_ONE
    added = model.details.synthesise(own[None], quality)[0]
    cut = [(PATCH - side) * (side > 0) for side in sides]
    return pixels + added[:, cut[0] : added.shape[1] - cut[1], cut[2] : added.shape[2] - cut[3]], sides


@torch.inference_mode()
def analyse_details(latent_hat: Tensor, rgb: np.ndarray, quality: int, model: LoocModel, *, tile: int = TILE_POSITIONS, kept: dict[Tile, Pixels] | None = None) -> Tensor:
    """What the synthesis of a quantised latent lacks of the pixels `(H, W, 3)` uint8: details `(detail_channels, h, w)` float32 in steps.

    `kept`, if given, takes what was synthesised, with context, for `fit_filter`.
    """
    _, height, width = latent_hat.shape
    details = torch.empty(model.config.detail_channels, height, width)
    for top, bottom in tiles(height, tile):
        for left, right in tiles(width, tile):
            place = (top, bottom, left, right)
            pixels, sides = synthesised_tile(latent_hat, place, quality, model, context=kept is not None)
            if kept is not None:
                kept[place] = pixels, sides
                pixels = pixels[:, sides[0] : pixels.shape[1] - sides[1], sides[2] : pixels.shape[2] - sides[3]]
            original = torch.from_numpy(rgb[top * PATCH : bottom * PATCH, left * PATCH : right * PATCH].copy()).permute(2, 0, 1).to(pixels)
            # Nothing is missed beyond the ends of the picture.
            error = torch.zeros_like(pixels)
            shown = (slice(None), slice(original.shape[1]), slice(original.shape[2]))
            error[shown] = original - pixels[shown]
            with without_tf32():
                details[:, top:bottom, left:right] = model.details.analyse(error[None], quality)[0].cpu()
            progress.report((top * width + right * (bottom - top)) / (height * width))
    return details


# --- filter -----------------------------------------------------------------------------------------------------------


def fitting_tiles(height: int, width: int, tile: int = FIT_TILE_POSITIONS, count: int = FIT_TILES) -> list[Tile]:
    """Tiles (top, bottom, left, right) of a latent that a filter is fitted on: all, or `count` spread evenly over a large picture."""
    every = [(*rows, *columns) for rows in tiles(height, tile) for columns in tiles(width, tile)]
    if height * width <= count * tile**2 or len(every) <= count:
        return [(*rows, *columns) for rows in tiles(height, TILE_POSITIONS) for columns in tiles(width, TILE_POSITIONS)]
    return [every[(2 * index + 1) * len(every) // (2 * count)] for index in range(count)]


@torch.inference_mode()
def fit_filter(
    latent_hat: Tensor, rgb: np.ndarray, quality: int, model: LoocModel, *, details: Tensor | None = None, grey: bool = False, kept: dict[Tile, Pixels] | None = None
) -> Wiener | None:
    """The filter that brings the synthesis of a quantised latent and details closest to the pixels `(H, W, 3)` uint8, if one is worth its bits.

    `kept` are tiles that have been synthesised already, without details.
    """
    statistics = Statistics(grey)
    for tile in fitting_tiles(*latent_hat.shape[1:]):
        found = kept.get(tile) if kept else None
        found = synthesised_tile(latent_hat, tile, quality, model, True) if found is None else found
        pixels, context = with_details(found, tile, quality, model, details)
        top, bottom, left, right = (PATCH * side for side in tile)
        original = torch.from_numpy(rgb[top:bottom, left:right].copy()).permute(2, 0, 1).to(pixels)
        statistics.add(pixels, context, original)
    return statistics.fit(bits_per_error(quality, model.config) * rgb.shape[0] * rgb.shape[1] / statistics.pixels)[0]


# --- codes ------------------------------------------------------------------------------------------------------------


def table_bank(model: LoocModel) -> TableBank:
    """The coder models of a model's tables, built once per model."""
    if "table_bank" not in model.__dict__:
        model.__dict__["table_bank"] = TableBank(model.codebook.frequencies.numpy())
    return model.__dict__["table_bank"]


@torch.inference_mode()
def encode_latent(latent: Tensor, quality: int, model: LoocModel, *, lagrangian: float = ENCODER_LAMBDA) -> Coded:
    """Latent `(d, h, w)` in steps → payload segments, code checksum, quantised latent `(d, h, w)` int32 (1/16 steps)."""
    config, book, bank = model.config, model.codebook, table_bank(model)
    _, height, width = latent.shape
    flat = latent.flatten(1)
    encoders = [SegmentEncoder(bank) for _ in config.groups]
    checksum = CodeChecksum(len(config.groups))

    def code(step: CodingStep, rows: Tensor, mean: Tensor) -> Tensor:
        target = step.units(flat, config.codevector_dim) * LATENT_ONE
        digits = book.pick(target - mean, rows, lagrangian)
        symbols, table_rows, counts = book.symbols(digits, rows)
        encoders[step.segment].append(symbols.numpy(), table_rows.numpy(), counts)
        checksum.update(step.segment, symbols.numpy())
        return (mean + book.value(digits, rows)).clamp(-LATENT_LIMIT, LATENT_LIMIT)

    latent_hat = model.prior.traverse(height, width, quality, code)
    return tuple(encoder.finish() for encoder in encoders), checksum.value, latent_hat


@torch.inference_mode()
def encode_details(
    latent_hat: Tensor, rgb: np.ndarray, quality: int, model: LoocModel, *, lagrangian: float = ENCODER_LAMBDA, kept: dict[Tile, Pixels] | None = None
) -> tuple[bytes, Tensor] | None:
    """The segment of the details that a quantised latent lacks of the pixels `(H, W, 3)` uint8, and the details `(detail_channels, h, w)` int16 (1/16 steps); None
    where they are not worth their bits. `kept` as in `analyse_details`."""
    book, dim = model.codebook, model.config.codevector_dim
    with progress.part(0, 0.7):
        flat = analyse_details(latent_hat, rgb, quality, model, kept=kept).flatten(1)
    encoder, checksum, gain = SegmentEncoder(table_bank(model)), CodeChecksum(1), 0.0

    def code(step: CodingStep, rows: Tensor) -> Tensor:
        nonlocal gain
        target = step.units(flat, dim) * LATENT_ONE
        digits = book.pick(target, rows, lagrangian)
        symbols, table_rows, counts = book.symbols(digits, rows)
        encoder.append(symbols.numpy(), table_rows.numpy(), counts)
        checksum.update(0, symbols.numpy())
        value = book.value(digits, rows)
        gain += float((target.square() - (target - value).square()).sum(dtype=torch.float64))
        return value

    details = model.details.traverse(latent_hat, model.prior.companded, quality, len(model.config.groups), code)
    segment = bytes([checksum.value & 255]) + encoder.finish()
    worth = gain / LATENT_ONE**2 * model.config.step(quality) ** 2 * bits_per_error(quality, model.config)
    return (segment, details) if worth > 8 * len(segment) else None


@dataclass(frozen=True)
class CodedPicture:
    """What a file says of the pixels: payload segments, those of the channel groups and, if there are any, of the details; the code checksum; and the filter.

    `latent_hat` `(d, h, w)` int32 and `details` `(detail_channels, h, w)` int16, in 1/16 steps, are what the segments stand for.
    """

    segments: tuple[bytes, ...]
    checksum: int
    latent_hat: Tensor
    details: Tensor | None
    wiener: Wiener | None

    @property
    def filter(self) -> bytes:
        return self.wiener.to_bytes() if self.wiener else b""


def encode_picture(
    latent: Tensor, rgb: np.ndarray, quality: int, model: LoocModel, *, lagrangian: float = ENCODER_LAMBDA, effort: int = 0, grey: bool = False
) -> CodedPicture:
    """Codes as of `encode_latent`, and the picture's details and filter; an effort above 0 looks for codes that serve the pixels `(H, W, 3)` uint8 better, never worse ones.

    A grey picture has no details: most of what they say is colour.
    """

    def encode(target: Tensor) -> Coded:
        return encode_latent(target, quality, model, lagrangian=lagrangian)

    detailed = model.details is not None and quality >= model.config.detail_quality and not grey
    share = DETAIL_SHARE * detailed
    with progress.part(0, 1 - share):
        if effort == 0:
            with progress.part(0, 1 - FILTER_SHARE):
                coded = encode(latent)
            wiener = None if detailed else fit_filter(coded[2], rgb, quality, model, grey=grey)
        else:
            halo = synthesis_halo(model.config.synthesis_blocks)
            coded, wiener = refine(latent, rgb, quality, model, encode, rounds=EFFORT_ROUNDS[effort], halo=halo, grey=grey)
    segments, checksum, latent_hat = coded
    if not detailed:
        return CodedPicture(segments, checksum, latent_hat, None, wiener)
    # What a small picture's filter is fitted on is all of it, and has been synthesised by then.
    kept = {} if latent_hat[0].numel() <= FIT_TILES * FIT_TILE_POSITIONS**2 else None
    with progress.part(1 - share, 1):
        found = encode_details(latent_hat, rgb, quality, model, lagrangian=lagrangian, kept=kept)
    segment, details = ((found[0],), found[1]) if found else ((), None)
    return CodedPicture(segments + segment, checksum, latent_hat, details, fit_filter(latent_hat, rgb, quality, model, details=details, kept=kept))


@torch.inference_mode()
def decode_latent(
    segments: tuple[bytes | None, ...], code_checksum: int, height: int, width: int, quality: int, model: LoocModel, *, groups: int | None = None
) -> Tensor:
    """Payload segments → quantised latent `(d, h, w)` int32 (1/16 steps). Exact on every machine.

    With `groups`, and where segments are None, only the first groups are decoded; every other unit takes the mean that
    the prior predicts for it. Raises FormatError when the decoded codes do not have the checksum that
    the encoder wrote, or the model has fewer groups.
    """
    config, book, bank = model.config, model.codebook, table_bank(model)
    count = len(config.groups)
    if len(segments) != count:
        raise FormatError(f"the file has {len(segments)} segments where its model writes {count}; it is damaged")
    if groups is not None and not 1 <= groups <= count:
        raise FormatError(f"{groups} channel groups were asked for; the file has {count}")
    wanted = segments if groups is None else segments[:groups]
    decoders = [SegmentDecoder(bank, segment) for segment in wanted if segment is not None]
    checksum = CodeChecksum(count)

    def code(step: CodingStep, rows: Tensor, mean: Tensor) -> Tensor:
        if step.segment >= len(decoders):
            return mean.clamp(-LATENT_LIMIT, LATENT_LIMIT)
        digits = book.read(rows, decoders[step.segment])
        checksum.update(step.segment, book.symbols(digits, rows)[0].numpy())
        return (mean + book.value(digits, rows)).clamp(-LATENT_LIMIT, LATENT_LIMIT)

    latent_hat = model.prior.traverse(height, width, quality, code)
    for decoder in decoders:
        decoder.finish()
    if not checksum.agrees(code_checksum, len(decoders)):
        raise FormatError(_OTHER_CODES)
    return latent_hat


@torch.inference_mode()
def decode_details(segment: bytes, latent_hat: Tensor, quality: int, model: LoocModel) -> Tensor:
    """The details `(detail_channels, h, w)` int16 (1/16 steps) of a segment, given the decoded latent. Exact on every machine; FormatError for a damaged segment."""
    book, checksum = model.codebook, CodeChecksum(1)
    if not segment:
        raise FormatError("the .looc file is malformed: its details are empty; get a fresh copy")
    decoder = SegmentDecoder(table_bank(model), segment[1:])

    def code(step: CodingStep, rows: Tensor) -> Tensor:
        digits = book.read(rows, decoder)
        checksum.update(0, book.symbols(digits, rows)[0].numpy())
        return book.value(digits, rows)

    details = model.details.traverse(latent_hat, model.prior.companded, quality, len(model.config.groups), code)
    decoder.finish()
    if checksum.value & 255 != segment[0]:
        raise FormatError(_OTHER_CODES)
    return details


def decode_codes(file: Container, model: LoocModel, groups: int | None = None) -> tuple[Tensor, Tensor | None]:
    """The quantised latent of a file as of `decode_latent`, and its details; None where it has none, or only the first `groups` segments are wanted."""
    count = len(model.config.groups)
    # Of a file with more segments than its model can write `decode_latent` says so.
    own = count if model.details is not None and len(file.segments) == count + 1 else len(file.segments)
    wanted = None if groups == len(file.segments) else groups
    grid = grid_size(file.width, file.height)
    latent_hat = decode_latent(file.segments[:own], file.code_checksum, *grid, file.quality, model, groups=wanted)
    extra = [segment for segment in file.segments[own:] if segment is not None and wanted is None]
    return latent_hat, decode_details(extra[0], latent_hat, file.quality, model) if extra else None


def grid_size(width: int, height: int) -> tuple[int, int]:
    """Latent rows and columns of a picture."""
    return -(-height // PATCH), -(-width // PATCH)


# --- pictures and bytes -----------------------------------------------------------------------------------------------


def compress_picture(
    picture: Picture, *, quality: int = DEFAULT_QUALITY, model: LoocModel | str | Path | None = None, effort: int = 0
) -> bytes:
    """A picture with its metadata as the bytes of a .looc file.

    `quality` is a whole number of 1..100, `effort` of 0 (fast) to 3 (the best picture for its bytes, of which there may be a few more). Raises ImageError
    for one outside or an unusable picture, ModelError when there is no such model.
    """
    if not isinstance(quality, (int, np.integer)) or not QUALITY_MIN <= quality <= QUALITY_MAX:
        raise ImageError(f"quality {quality!r} is not a whole number of {QUALITY_MIN} to {QUALITY_MAX}")
    quality = int(quality)
    if not isinstance(model, LoocModel):
        model = load_model(DEFAULT_MODEL if model is None else model)
    height, width = picture.rgb.shape[:2]
    require_effort(effort)
    chunks, colour = images.chunks_of_picture(picture), images.colour_of_picture(picture)
    share = ANALYSIS_SHARE / (1 + ROUND_COST * EFFORT_ROUNDS[effort])
    with progress.part(0, share):
        latent = analyse(picture.rgb, quality, model)
    with progress.part(share, 1):
        coded = encode_picture(latent, picture.rgb, quality, model, effort=effort, grey=colour != Colour.RGB)
    return pack(Container(width, height, quality, model.fingerprint, coded.segments, coded.checksum, chunks, colour, coded.filter))


def require_effort(effort: int) -> None:
    """ImageError unless `effort` is one that there is."""
    if not isinstance(effort, (int, np.integer)) or not 0 <= effort < len(EFFORT_ROUNDS):
        raise ImageError(f"effort {effort!r} is not a whole number of 0 to {len(EFFORT_ROUNDS) - 1}")


def decompress_picture(
    data: bytes,
    *,
    model: LoocModel | str | Path | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    device: str = "cpu",
    groups: int | None = None,
    allow_truncated: bool = False,
) -> Picture:
    """The picture of a .looc file, with its metadata.

    Without `model` the installed model with the file's fingerprint is used. `groups` decodes only so many of the channel
    groups, and `allow_truncated` what a file that ends too early holds of them; a notice says so.
    Raises FormatError for anything else that is not a whole, undamaged file, ModelError when its model is not installed.
    """
    file = unpack(data, max_pixels=max_pixels, allow_truncated=allow_truncated)
    wiener = filter_of(file, groups)
    model = model_for_file(file.fingerprint, model, device)
    with progress.part(0, LATENT_SHARE):
        latent_hat, details = decode_codes(file, model, groups)
    with progress.part(LATENT_SHARE, 1):
        rgb = synthesise(latent_hat, (file.height, file.width), file.quality, model, details=details, wiener=wiener, grey=file.colour != Colour.RGB)
    picture = images.picture_with_chunks(rgb, file.chunks, file.colour)
    held = len(file.segments) - file.segments.count(None)
    if held < len(file.segments):
        picture = replace(picture, notices=(f"the file is cut short: it holds {held} of {len(file.segments)} channel groups", *picture.notices))
    return picture


def filter_of(file: Container, groups: int | None = None) -> Wiener | None:
    """The filter of a file's picture; None for a preview, since it was fitted to the whole. FormatError when it is malformed."""
    wiener = Wiener.from_bytes(file.filter) if file.filter else None
    whole = None not in file.segments and groups in (None, len(file.segments))
    return wiener if whole else None


def compress(
    image: Image.Image | np.ndarray | Picture, *, quality: int = DEFAULT_QUALITY, model: LoocModel | str | Path | None = None, effort: int = 0
) -> bytes:
    """A Pillow image, an `(H, W, 3)` uint8 array or a Picture as the bytes of a .looc file; see `compress_picture`."""
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
            raise ImageError(f"an array must be (height, width, 3) uint8, not {image.shape} {image.dtype}")
        image = Picture(rgb=np.ascontiguousarray(image), alpha=None, icc=None, exif=None, xmp=None, notices=())
    elif isinstance(image, Image.Image):
        image = images.picture_from_pillow(image)
    elif not isinstance(image, Picture):
        raise ImageError(f"cannot compress a {type(image).__name__}; give a Pillow image or a uint8 array")
    return compress_picture(image, quality=quality, model=model, effort=effort)


def decompress(
    data: bytes | BinaryIO,
    *,
    model: LoocModel | str | Path | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    groups: int | None = None,
    allow_truncated: bool = False,
) -> Image.Image:
    """The Pillow image of a .looc file's bytes: RGB or RGBA; L or LA where the picture was grey.

    `groups` and `allow_truncated` give previews, see `decompress_picture`.
    """
    if not isinstance(data, (bytes, bytearray, memoryview)):
        data = data.read()
    picture = decompress_picture(bytes(data), model=model, max_pixels=max_pixels, groups=groups, allow_truncated=allow_truncated)
    return images.picture_to_pillow(picture)


def verify(data: bytes, *, model: LoocModel | str | Path | None = None, max_pixels: int = DEFAULT_MAX_PIXELS) -> None:
    """Checks every CRC and decodes all codes of a .looc file without making a picture; raises FormatError or ModelError."""
    file = unpack(data, max_pixels=max_pixels)
    filter_of(file)
    model = model_for_file(file.fingerprint, model)
    decode_codes(file, model)
