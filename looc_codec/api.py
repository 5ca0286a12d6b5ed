"""What programs call: pictures to the bytes of .looc files and back. Joins pictures, models, codec and container.

    data = looc_codec.compress(Image.open("photo.png"), quality=75)
    image = looc_codec.decompress(data)

Threads: every function may be called from several threads at once. They share models and their networks, which run one
picture's tile at a time with `threads` threads (by default `LOOC_THREADS` or the number of cores). Of one model two pictures are in
work at a time and other callers wait, so memory grows with the number of callers by little more than their pixels. Forking: a forked process may go on using looc; it makes its networks anew, on first use.

Errors: whatever goes wrong with a file, a picture, a model or an argument is a LoocError.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from looc_codec import images, registry
from looc_codec.codec.decoder import filter_of
from looc_codec.codec.engine import PROVIDERS, default_threads
from looc_codec.codec.grid import GridEncoder, require_default
from looc_codec.codec.grid_model import GridModel
from looc_codec.codec.kinds import AnyDecoder, AnyEncoder, AnyModel, cached_model, decoder_of, encoder_of
from looc_codec.codec.model import StoredModel
from looc_codec.codec.rate_control import Target, Trial, compress_to_target, packed
from looc_codec.codec.transforms import SHRINKS
from looc_codec.errors import FormatError, ImageError, ModelError, OptionError
from looc_codec.format import container
from looc_codec.format.container import DEFAULT_MAX_PIXELS, Colour, Container, unpack
from looc_codec.images import Picture
from looc_codec.quality import DEFAULT_QUALITY, EFFORT_MAX, LEVEL_MAX, LEVEL_MIN, QUALITY_MAX, QUALITY_MIN
from looc_codec.registry import DEFAULT_MODEL, ModelEntry


ModelSpec = AnyModel | str | os.PathLike[str] | None
"""A loaded model, the name of an installed one, the path of a weights file, or None for the default."""
Source = bytes | bytearray | memoryview | str | os.PathLike[str] | BinaryIO
"""The bytes of a .looc file, its path, or a file object opened for reading bytes."""


# --- models -----------------------------------------------------------------------------------------------------------


def models() -> list[ModelEntry]:
    """The installed models, in the order in which they are searched."""
    return registry.installed_models()


def load_model(spec: str | os.PathLike[str] = DEFAULT_MODEL) -> AnyModel:
    """The model of an installed name ("photo") or of a weights file; read once per process.

    Raises ModelError when there is no such model or its file is damaged.
    """
    if not isinstance(spec, (str, os.PathLike)):
        raise ModelError(f"a model is named by text or a path, not by a {type(spec).__name__}")
    return cached_model(Path(registry.find_model(spec).path))


def _model(spec: ModelSpec) -> AnyModel:
    return spec if isinstance(spec, StoredModel) else load_model(DEFAULT_MODEL if spec is None else spec)


def model_for_file(fingerprint: bytes, spec: ModelSpec = None) -> AnyModel:
    """The given model if it fits a file's fingerprint, or the installed one that does; ModelError otherwise."""
    model = _model(registry.find_by_fingerprint(fingerprint).path if spec is None else spec)
    if model.fingerprint != fingerprint:
        raise ModelError(f"the file was written with model {fingerprint.hex()}, not with {model.name} ({model.fingerprint.hex()}); use that model")
    return model


def _threads(threads: int | None) -> int:
    if threads is None:
        return default_threads()
    if isinstance(threads, bool) or not isinstance(threads, (int, np.integer)) or not 1 <= threads <= 1024:
        raise OptionError(f"threads {threads!r} is not a whole number of 1 to 1024")
    return int(threads)


def _device(device: str) -> str:
    if device not in PROVIDERS:
        raise OptionError(f"device {device!r} is none of {', '.join(PROVIDERS)}")
    return device


def encoder_for(model: AnyModel, *, effort: int = 0, threads: int | None = None, device: str = "cpu") -> AnyEncoder:
    """An encoder of a model. Raises ImageError for an effort that there is not, ModelError where effort needs torch and there is
    none."""
    if isinstance(effort, bool) or not isinstance(effort, (int, np.integer)) or not 0 <= effort <= EFFORT_MAX:
        raise ImageError(f"effort {effort!r} is not a whole number of 0 to {EFFORT_MAX}")
    refine = None
    if isinstance(model, GridModel):
        require_default(model, asked=False, effort=effort)
    elif effort:
        try:
            import torch  # noqa: F401
        except ImportError:
            raise ModelError("effort above 0 needs torch for its gradients, which is not installed; pip install 'looc[train]' or leave --effort away") from None
        from looc_codec.effort import Refinement

        refine = Refinement(model, int(effort), _threads(threads))
    return encoder_of(model, model.engine(_threads(threads), _device(device)), refine)


def decoder_for(model: AnyModel, *, threads: int | None = None, device: str = "cpu") -> AnyDecoder:
    """A decoder of a model."""
    return decoder_of(model, model.engine(_threads(threads), _device(device)))


# --- pictures and bytes -----------------------------------------------------------------------------------------------


def compress_picture(
    picture: Picture, *, quality: int | None = None, level: int | None = None, target: Target | None = None,
    model: ModelSpec = None, effort: int = 0, threads: int | None = None, device: str = "cpu",
) -> Trial:  # fmt: skip
    """A picture with its metadata as a .looc file: its bytes, and the level that they have.

    `quality` is a whole number of 1..100, DEFAULT_QUALITY if nothing else is given; instead of it `level`, one of
    1..100 on the model's own scale, or a `target`, for which a level is searched. `effort` is 0 (fast) to 3 (the fewest
    bytes for the quality). Raises ImageError for one outside, an unusable picture or a target that cannot be reached,
    ModelError when there is no such model.
    """
    _require_within("quality", quality, QUALITY_MIN, QUALITY_MAX)
    _require_within("level", level, LEVEL_MIN, LEVEL_MAX)
    if sum(given is not None for given in (quality, level, target)) > 1:
        raise ImageError("only one of quality, level and a target can be given")
    encoder = encoder_for(_model(model), effort=effort, threads=threads, device=device)
    if isinstance(encoder, GridEncoder):
        asked = quality is not None or target is not None or level not in (None, *encoder.model.only_levels)
        require_default(encoder.model, asked=asked, effort=effort)
        level = encoder.model.only_levels[0]
    elif level is None:
        level = encoder.model.quality_scale.level(DEFAULT_QUALITY if quality is None else int(quality), int(effort))
    chunks, colour = images.chunks_of_picture(picture), images.colour_of_picture(picture)
    if target is not None and not isinstance(encoder, GridEncoder):
        return encoder.engine.in_turn(lambda: compress_to_target(encoder, picture.rgb, target, chunks, colour))
    coding = encoder.engine.in_turn(lambda: encoder.encode(picture.rgb, int(level), grey=colour != Colour.RGB))
    return Trial(packed(encoder.model, coding, picture.rgb.shape[:2], chunks, colour), coding)


def _require_within(name: str, value: object, least: int, most: int) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not least <= value <= most:
        raise ImageError(f"{name} {value!r} is not a whole number of {least} to {most}")


def restore_picture(
    data: bytes | memoryview | Container, *, model: ModelSpec = None, max_pixels: int = DEFAULT_MAX_PIXELS, groups: int | None = None, scale: float = 1,
    allow_truncated: bool = False, threads: int | None = None, device: str = "cpu",
) -> Picture:  # fmt: skip
    """The picture of a .looc file, with its metadata; of its bytes, or of what `unpack` found in them.

    Without `model` the installed model with the file's fingerprint is used. `groups` decodes only so many of the channel
    groups, `scale` (1, 1/2, 1/4, 1/8 or 1/16) gives a smaller picture, and `allow_truncated` what a file that ends too early holds
    of them; a notice says so. Raises FormatError for anything else that is not a whole, undamaged file, ModelError when its model
    is not installed.
    """
    shrink = shrink_of(scale)
    _require_whole("groups", groups)
    _require_whole("max_pixels", max_pixels)
    file = data if isinstance(data, Container) else unpack(data, max_pixels=max_pixels, allow_truncated=allow_truncated)
    decoder = decoder_for(model_for_file(file.fingerprint, model), threads=threads, device=device)
    rgb = decoder.engine.in_turn(lambda: decoder.restore(file, groups) if shrink == 1 else decoder.restore_small(file, shrink, groups))
    picture = images.picture_with_chunks(rgb, file.chunks, file.colour) if shrink == 1 else _small_picture(rgb, file)
    held = len(file.segments) - file.segments.count(None)
    if held < len(file.segments):
        picture = replace(picture, notices=(f"the file is cut short: it holds {held} of {len(file.segments)} channel groups", *picture.notices))
    return picture


def _require_whole(name: str, value: object) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, np.integer))):
        raise OptionError(f"{name} {value!r} is not a whole number")


def shrink_of(scale: float) -> int:
    """How many pixels of the whole picture one of a scale stands for along a side; ImageError for a scale that there is not."""
    if scale == 1:
        return 1
    for shrink in SHRINKS:
        if scale == 1 / shrink:
            return shrink
    raise ImageError(f"scale {scale!r} is none of 1, 1/2, 1/4, 1/8 and 1/16")


def _small_picture(rgb: np.ndarray, file: Container) -> Picture:
    """A small picture with the metadata of the file, and its alpha plane as small."""
    whole = images.picture_with_chunks(np.zeros((file.height, file.width, 3), np.uint8), file.chunks, file.colour) if any(
        chunk.type == container.ALPHA_CHUNK for chunk in file.chunks
    ) else images.picture_with_chunks(rgb, file.chunks, file.colour)
    if whole.alpha is None:
        return replace(whole, rgb=rgb)
    alpha = np.asarray(Image.fromarray(whole.alpha).resize((rgb.shape[1], rgb.shape[0]), Image.Resampling.BOX))
    return replace(whole, rgb=rgb, alpha=alpha)


# --- for programs -----------------------------------------------------------------------------------------------------


def compress(
    image: Image.Image | np.ndarray | Picture, *, quality: int | None = None, level: int | None = None,
    target_size: int | None = None, target_bpp: float | None = None, target_psnr: float | None = None,
    target_ssimulacra2: float | None = None, effort: int = 0, model: ModelSpec = None, threads: int | None = None,
    device: str = "cpu",
) -> bytes:  # fmt: skip
    """A Pillow image, an `(H, W, 3)` uint8 array or a Picture as the bytes of a .looc file.

    `quality` of 1..100 says how the picture looks, about the same with every model and effort: 30 low, 50 medium, 75
    high and the default, 90 very high. Instead of it a target may be given: `target_size` in bytes or `target_bpp` in
    bits per pixel, which the file never exceeds, `target_psnr` in dB or `target_ssimulacra2` for this very picture; or
    `level`, 1..100 on the model's own scale. `effort` of 0 to 3 takes more time for a smaller file (above 0 it needs
    torch). `model` is the name of an installed model, the path of a weights file, or what `load_model` gives. Raises
    ImageError, ModelError, OptionError.
    """
    target = target_of(target_size, target_bpp, target_psnr, target_ssimulacra2)
    return compress_picture(
        picture_of(image), quality=quality, level=level, target=target, effort=effort, model=model, threads=threads,
        device=device,
    ).data  # fmt: skip


def picture_of(image: Image.Image | np.ndarray | Picture) -> Picture:
    """What `compress` takes, as a Picture; ImageError for anything else."""
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
            raise ImageError(f"an array must be (height, width, 3) uint8, not {image.shape} {image.dtype}")
        return Picture(rgb=np.ascontiguousarray(image), alpha=None, icc=None, exif=None, xmp=None, notices=())
    if isinstance(image, Image.Image):
        return images.picture_from_pillow(image)
    if not isinstance(image, Picture):
        raise ImageError(f"cannot compress a {type(image).__name__}; give a Pillow image or a uint8 array")
    return image


def content_notice(image: Image.Image | np.ndarray | Picture) -> str | None:
    """A sentence about what serves a picture better that is text, a drawing or a screenshot; None for a photograph.

    Takes what `compress` takes, and some milliseconds. `looc compress` prints it; `compress` itself is silent.
    """
    return images.content_notice(picture_of(image).rgb)


def target_of(
    size_bytes: float | None = None, bpp: float | None = None, psnr_db: float | None = None, ssimulacra2: float | None = None
) -> Target | None:  # fmt: skip
    """The target of a compression, or None where there is none; ImageError where there are several."""
    wanted = {"size": size_bytes, "bpp": bpp, "psnr": psnr_db, "ssimulacra2": ssimulacra2}
    for value in wanted.values():
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating))):
            raise ImageError(f"a target is a number, not {value!r}")
    given = [Target(kind, float(value)) for kind, value in wanted.items() if value is not None]
    if len(given) > 1:
        raise ImageError("only one of target_size, target_bpp, target_psnr and target_ssimulacra2 can be given")
    return given[0] if given else None


def read_source(source: Source) -> bytes | memoryview:
    """The bytes of a .looc file given as bytes, path or file object; FormatError for anything else and for what cannot be read."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return memoryview(source)
    try:
        if isinstance(source, (str, os.PathLike)):
            return Path(source).read_bytes()
        data = source.read()
    except OSError as error:
        raise FormatError(f"cannot read {source}: {error.strerror or error}") from None
    except AttributeError:
        raise FormatError(f"cannot read a .looc file from a {type(source).__name__}; give bytes, a path or a file object") from None
    if not isinstance(data, (bytes, bytearray)):
        raise FormatError("the file object gives text, not bytes; open the file in mode 'rb'")
    return data


def decompress(
    source: Source, *, model: ModelSpec = None, max_pixels: int = DEFAULT_MAX_PIXELS, groups: int | None = None, scale: float = 1, allow_truncated: bool = False,
    threads: int | None = None, device: str = "cpu",
) -> Image.Image:  # fmt: skip
    """The Pillow image of a .looc file: RGB or RGBA; L or LA where the picture was grey.

    `groups`, `scale` and `allow_truncated` give previews, see `restore_picture`. Raises FormatError, ModelError.
    """
    picture = restore_picture(
        read_source(source), model=model, max_pixels=max_pixels, groups=groups, scale=scale, allow_truncated=allow_truncated, threads=threads, device=device
    )
    return images.picture_to_pillow(picture)


def verify(source: Source | Container, *, model: ModelSpec = None, max_pixels: int = DEFAULT_MAX_PIXELS, threads: int | None = None) -> None:
    """Checks every checksum and decodes all codes of a .looc file without making a picture; raises FormatError or ModelError."""
    file = source if isinstance(source, Container) else unpack(read_source(source), max_pixels=max_pixels)
    filter_of(file)
    decoder = decoder_for(model_for_file(file.fingerprint, model), threads=threads)
    decoder.engine.in_turn(lambda: decoder.decode(file))


@dataclass(frozen=True)
class Info:
    """What a .looc file says of itself. `level` is the one that the model coded it at, `quality` about what that means
    for the look. `model` is the name of its model, None where that is not installed, and then `quality` is None, too;
    `bpp` counts every byte."""

    width: int
    height: int
    quality: int | None
    level: int
    model: str | None
    fingerprint: str
    bpp: float
    file_bytes: int
    groups: int
    held_groups: int
    grey: bool
    chunks: tuple[str, ...]


def info(source: Source) -> Info:
    """What a .looc file says of itself, from its header; no codes are decoded. Raises FormatError."""
    data = read_source(source)
    header = container.read_header(data)
    name: str | None = None
    quality: int | None = None
    try:
        entry = registry.find_by_fingerprint(header.fingerprint)
        name, quality = entry.name, entry.quality_scale.quality(header.level)
    except ModelError:
        pass
    held = container.held_segments(header, data)[0]
    return Info(
        header.width, header.height, quality, header.level, name, header.fingerprint.hex(), 8 * len(data) / (header.width * header.height), len(data),
        len(header.segment_lengths_bytes), held, header.colour != Colour.RGB, tuple(chunk.type for chunk in header.chunks),
    )  # fmt: skip


def truncate(source: Source, *, groups: int | None = None, max_bytes: int | None = None) -> bytes:
    """The beginning of a .looc file as a file of its own, a preview: the first `groups` channel groups, or as many as `max_bytes` hold."""
    return container.truncate(read_source(source), groups=groups, max_bytes=max_bytes)
