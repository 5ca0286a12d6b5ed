"""Every codec of a report behind one interface: 8-bit RGB pixels in, the bytes of a real file out, and back.

Each codec runs on one thread, so that seconds are comparable, and without metadata, so that bytes are.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module, metadata, util
from pathlib import Path, PurePath
from typing import Any, Protocol

import numpy as np
import PIL
from PIL import Image, features

import looc_codec
from looc_codec.errors import LoocError


class CodecError(LoocError):
    """A codec that a report does not know, or that is not installed."""


class Codec(Protocol):
    """What a report needs of a codec. Pixels are `(H, W, 3)` uint8; quality is the codec's own scale, with looc the
    model's level."""

    def encode(self, rgb: np.ndarray, quality: int) -> bytes: ...

    def decode(self, data: bytes) -> np.ndarray: ...


@dataclass(frozen=True)
class CodecInfo:
    """A codec as the report names it.

    `qualities` is the default ladder, chosen to cover about 0.1 to 1.6 bpp on photographs; the curves are smooth,
    and with twice as many points no BD-rate of looc on Kodak differs by 0.2 points. `lowest` and `highest` are the ends of
    the scale, and a higher quality always means a larger file.
    """

    name: str
    label: str
    settings: str
    qualities: tuple[int, ...]
    lowest: int
    highest: int


CODECS = {
    info.name: info
    for info in (
        CodecInfo("looc", "looc", "levels, on the CPU, one thread", (1, 10, 20, 30, 40, 60, 80, 100), 1, 100),
        *(
            CodecInfo(f"looc-effort{effort}", f"looc, effort {effort}", f"levels, --effort {effort}, on the CPU, one thread", (1, 10, 25, 40, 60, 80, 100), 1, 100)
            for effort in (1, 2, 3)
        ),
        CodecInfo(
            "jpeg", "JPEG", "Pillow, optimize, progressive, 4:2:0", (6, 10, 15, 25, 40, 60, 80, 90), 1, 100,
        ),
        CodecInfo("webp", "WebP", "Pillow, method 6", (0, 5, 10, 20, 40, 60, 80, 93), 0, 100),
        CodecInfo(
            "avif", "AVIF", "Pillow, speed 4, 4:2:0, one thread", (15, 20, 25, 35, 45, 55, 65, 75, 85), 0, 100,
        ),
        CodecInfo("jxl", "JPEG XL", "pillow-jxl-plugin, effort 7, one thread", (5, 10, 15, 30, 50, 65, 80, 90), 1, 99),
    )
}
"""Codecs by the first part of their names. A name of a report may say looc's model as well: `looc-effort1:photo-psnr`."""

_PILLOW_OPTIONS: dict[str, dict[str, Any]] = {
    "jpeg": {"format": "JPEG", "optimize": True, "progressive": True},
    "webp": {"format": "WEBP", "method": 6},
    # One thread: libavif cuts the picture into as many tiles as there are threads, which changes the bytes.
    "avif": {"format": "AVIF", "speed": 4, "max_threads": 1},
    "jxl": {"format": "JXL", "effort": 7, "num_threads": 1},
}

# Modules whose code decides looc's bytes or pixels; another code is another codec. Quantizers of papers are no part of it.
_LOOC_CODE = (
    "config.py", "effort.py", *(f"format/{name}.py" for name in ("codes", "constants", "container", "dct", "entropy", "filter", "index_grid", "integers", "order", "trellis")),
    *(f"codec/{name}.py" for name in ("coding", "decoder", "details", "encoder", "engine", "grid", "grid_model", "kinds", "model", "packing", "prior", "search", "tiles", "transforms", "viterbi", "wiener")),
    *(f"networks/{name}.py" for name in ("distortion", "transforms")),
)  # fmt: skip


class LoocCodec:
    """looc through its Python interface; the model is loaded once per process."""

    def __init__(self, model: str, effort: int = 0) -> None:
        from looc_codec import api

        self._api, self._effort = api, effort
        self._model = api.load_model(model)
        # The first call builds tables and picks kernels, which is no part of the time of a picture.
        self.decode(self.encode(np.zeros((32, 32, 3), np.uint8), 50))

    def encode(self, rgb: np.ndarray, quality: int) -> bytes:
        return self._api.compress(rgb, level=quality, model=self._model, effort=self._effort)

    def decode(self, data: bytes) -> np.ndarray:
        return np.asarray(self._api.decompress(data, model=self._model).convert("RGB"))


class PillowCodec:
    """A file format that Pillow, or a plug-in of it, reads and writes."""

    def __init__(self, name: str) -> None:
        if name == "jxl":
            # Importing the plug-in registers the format; its decoder would take every core.
            import_module("pillow_jxl.JpegXLImagePlugin").DECODE_THREADS = 1
        if name == "avif":
            import_module("PIL.AvifImagePlugin").DEFAULT_MAX_THREADS = 1
        self._options = _PILLOW_OPTIONS[name]

    def encode(self, rgb: np.ndarray, quality: int) -> bytes:
        target = io.BytesIO()
        Image.fromarray(rgb).save(target, quality=quality, **self._options)
        return target.getvalue()

    def decode(self, data: bytes) -> np.ndarray:
        with Image.open(io.BytesIO(data), formats=[self._options["format"]]) as image:
            return np.asarray(image.convert("RGB"))


@functools.cache
def open_codec(name: str, model: str) -> Codec:
    """The codec of a name, made once per process; `model` matters to looc only.

    Raises:
        ModelError: looc's model is missing or damaged.
        CodecError: the codec is not installed.
    """
    reason = missing_reason(name)
    if reason is not None:
        raise CodecError(f"{info_of(name).label} cannot be measured: {reason}")
    return LoocCodec(model, effort_of(name)) if is_looc(name) else PillowCodec(name)


def is_looc(name: str) -> bool:
    """Whether a codec of a report is looc, with any model and effort."""
    return name.startswith("looc")


def effort_of(name: str) -> int:
    """The effort of a looc; 0 for every other codec.

    >>> effort_of("looc"), effort_of("looc-effort2:photo-psnr"), effort_of("avif")
    (0, 2, 0)
    """
    if not is_looc(name):
        return 0
    return int(name.partition(":")[0].removeprefix("looc").removeprefix("-effort") or 0)


def info_of(name: str) -> CodecInfo:
    """What the report says of a codec; the label tells model and effort.

    >>> info_of("looc-effort1:photo-psnr").label
    'looc photo-psnr, effort 1'
    """
    base, _, model = name.partition(":")
    info = CODECS[base]
    if not model:
        return replace(info, name=name)
    return replace(info, name=name, label=info.label.replace("looc", f"looc {model.removesuffix('.safetensors')}", 1))


def default_codecs() -> list[str]:
    """Names of the codecs that a report compares unless told otherwise; JPEG XL where it is installed."""
    return ["looc", "jpeg", "webp", "avif", *(["jxl"] if missing_reason("jxl") is None else [])]


def missing_reason(name: str) -> str | None:
    """Why a codec cannot run here, with what would install it; None when it can."""
    if name == "jxl" and util.find_spec("pillow_jxl") is None:
        return "not installed (pip install pillow-jxl-plugin)"
    if name in ("webp", "avif") and not features.check(name):
        return f"this Pillow {PIL.__version__} is built without it"
    return None


def identity_of(name: str, model: str) -> str:
    """Versions that decide the bytes of a codec: points measured under another identity are measured again."""
    if is_looc(name):
        from looc_codec.registry import find_model, tensor_bytes

        entry = find_model(model)
        # All tensors, not the fingerprint: a better synthesis changes the picture and keeps the fingerprint. Not the
        # header, whose description and quality table decide no byte of a level.
        weights = hashlib.sha256(tensor_bytes(entry.path)).hexdigest()[:16]
        return f"looc {looc_codec.__version__}, code {_looc_code_digest()}, {entry.name} version {entry.version}, weights {weights}"
    if name == "jpeg":
        turbo = features.version_feature("libjpeg_turbo")
        library = f"libjpeg-turbo {turbo}" if turbo else f"libjpeg {features.version_codec('jpg')}"
        return f"Pillow {PIL.__version__}, {library}"
    if name == "jxl":
        return f"pillow-jxl-plugin {metadata.version('pillow-jxl-plugin')}"
    library = {"webp": "libwebp", "avif": "libavif"}[name]
    return f"Pillow {PIL.__version__}, {library} {features.version_module(name)}"


def _looc_code_digest() -> str:
    """8 hex digits of looc's code without comments and docstrings, whose change does not make another codec."""
    digest = hashlib.sha256()
    root = Path(looc_codec.__file__).parent
    for part in _LOOC_CODE:
        for path in sorted((root / part).rglob("*.py")) if (root / part).is_dir() else [root / part]:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            for node in ast.walk(tree):
                body = getattr(node, "body", None)
                if isinstance(body, list):
                    node.body = [line for line in body if not _is_text(line)]
            digest.update(ast.dump(tree).encode())
    return digest.hexdigest()[:8]


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant) and isinstance(statement.value.value, str)


def parse_codecs(text: str) -> list[str]:
    """Codec names of a comma-separated list, each once. Of a model's path the name has the last part only, since names
    stand in results that other people read.

    >>> parse_codecs("looc, jpeg,looc, looc-effort1:models/mine.safetensors")
    ['looc', 'jpeg', 'looc-effort1:mine.safetensors']

    Raises:
        CodecError: a name is unknown or there is none.
    """
    return list(parse_models(text, ""))


def parse_models(text: str, model: str) -> dict[str, str]:
    """The model of every codec of a list as `parse_codecs` takes it: the one that it names, else `model`.

    >>> parse_models("looc,looc:models/mine.safetensors", "photo")
    {'looc': 'photo', 'looc:mine.safetensors': 'models/mine.safetensors'}

    Raises:
        CodecError: a name is unknown, there is none, or two models have one name.
    """
    found: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        base, colon, own = part.partition(":")
        base = base.lower()
        if base not in CODECS:
            raise CodecError(f"unknown codec {base!r}; known are {', '.join(CODECS)}")
        if colon and (not own or not is_looc(base)):
            raise CodecError(f"{part!r} does not name a model of looc; write looc:MODEL or looc-effort1:MODEL")
        name = f"{base}:{PurePath(own).name}" if colon else base
        if found.setdefault(name, own or model) != (own or model):
            raise CodecError(f"two models are named {PurePath(own).name}; give one of the files another name")
    if not found:
        raise CodecError(f"no codec is named; known are {', '.join(CODECS)}")
    return found


def only_levels(name: str, model: str) -> tuple[int, ...]:
    """The qualities that a codec has where these are not its whole scale: one for looc with a model of the paper's kind."""
    if not is_looc(name):
        return ()
    from looc_codec import api

    return api.load_model(model).only_levels


def qualities_with(models: Mapping[str, str], qualities: Mapping[str, Sequence[int]]) -> dict[str, Sequence[int]]:
    """The qualities of every codec that can be measured with its model: the model's own where it has but some, and no efforts then."""
    found: dict[str, Sequence[int]] = {}
    for name, values in qualities.items():
        only = only_levels(name, models[name])
        if not only or effort_of(name) == 0:
            found[name] = only or values
    return found


def parse_qualities(texts: Sequence[str], names: Sequence[str]) -> dict[str, list[int]]:
    """Qualities of every codec of `names`: `10,50` is for all, `jpeg:20,80` for one; the default ladder without any.

    >>> parse_qualities(["20,60", "jpeg:30"], ["looc", "jpeg"])
    {'looc': [20, 60], 'jpeg': [30]}

    Raises:
        CodecError: an unknown codec, something that is no whole number, or a quality outside the codec's scale.
    """
    shared: list[int] | None = None
    own: dict[str, list[int]] = {}
    for text in texts:
        name, colon, numbers = text.rpartition(":")
        try:
            values = sorted({int(part) for part in numbers.split(",") if part.strip()})
        except ValueError:
            raise CodecError(f"qualities {text!r} are not whole numbers between commas, such as 10,50 or jpeg:20,80") from None
        if colon:
            own[parse_codecs(name)[0]] = values
        else:
            shared = values
    chosen = {name: own.get(name, list(info_of(name).qualities) if shared is None else shared) for name in names}
    for name, values in chosen.items():
        info = info_of(name)
        outside = [value for value in values if not info.lowest <= value <= info.highest]
        if outside or not values:
            raise CodecError(f"quality {outside[0] if outside else 'list'} of {info.label} is not within {info.lowest} to {info.highest}")
    return chosen
