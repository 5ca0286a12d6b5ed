"""Finds model files: which weights are installed, and which of them a name, a path or a fingerprint means.

A model file is a safetensors file whose metadata entry `looc` is a JSON object with `name`, `version`, `fingerprint`
(16 hexadecimal digits), `config`, `description` and, where it was measured, `quality` (quality.py). Only that header is
read here, within fixed limits and without
torch, so that `looc info` and `looc models` start at once. Reading the tensors is the business of `model.py`.

Places searched, in this order; the first model of a fingerprint or name wins:

1. the weights installed with the package (`looc_codec/weights/`, in a source checkout `weights/` beside the package),
2. the folders of the environment variable `LOOC_MODELS` (separated as in `PATH`),
3. `looc/models` in `$XDG_DATA_HOME`, by default `~/.local/share/looc/models`.

A place that is missing, cannot be entered, or cannot even be named (a user without a home) is passed over.
"""

from __future__ import annotations

import json
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from looc_codec.errors import ModelError
from looc_codec.quality import PLAIN, QualityScale

DEFAULT_MODEL = "photo"
"""The name of the model that pictures are compressed with where none is named."""
MODEL_SUFFIX = ".safetensors"
FINGERPRINT_BYTES = 8
MAX_HEADER_BYTES = 10_000_000
_FIXED_BYTES = 8
"""A safetensors file opens with the length of its JSON header, a little-endian 64-bit number."""

_PACKAGE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class ModelEntry:
    """One installed model file, as its header describes it."""

    name: str
    version: int
    fingerprint: bytes
    """8 bytes over the tensors that decide how a file is read; every .looc file holds its model's."""
    path: Path
    size_bytes: int
    description: str
    kind: str = ""
    """Empty for the codec's own models, "index-grid" for those of the papers (codec/kinds.py)."""
    quality_scale: QualityScale = PLAIN


def model_folders() -> list[Path]:
    """The folders searched for model files, in order; folders that do not exist are left out."""
    folders = [_shipped_folder()]
    folders += [Path(part) for part in os.environ.get("LOOC_MODELS", "").split(os.pathsep) if part]
    user_folder = user_model_folder()
    folders += [] if user_folder is None else [user_folder]
    # Path.is_dir raises where a folder above may not be entered.
    return [folder for folder in folders if os.path.isdir(folder)]


def _shipped_folder() -> Path:
    packaged = _PACKAGE / "weights"
    # An editable install has no copy of the weights inside the package.
    return packaged if packaged.is_dir() else _PACKAGE.parent / "weights"


def user_model_folder() -> Path | None:
    """The folder where a user puts models of their own; it need not exist. None for a user without a home.

    Such users are common in containers: a number given on starting one has no name, no entry in passwd and no HOME.
    """
    data_home = os.environ.get("XDG_DATA_HOME")
    if not data_home:
        # Path.home raises where there is none; this gives its argument back.
        home = os.path.expanduser("~")
        if home == "~":
            return None
        data_home = os.path.join(home, ".local", "share")
    return Path(data_home, "looc", "models")


def place_for_models() -> str:
    """Where a person puts a model file, in words for the end of a sentence."""
    folder = user_model_folder()
    return "a folder that LOOC_MODELS names" if folder is None else str(folder)


def read_entry(path: Path) -> ModelEntry:
    """The header of one model file.

    Raises:
        ModelError: there is no such file, or it is not a model file of looc; at most 10 MB are read to find out.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ModelError(f"{path} is not a file; give the path of a {MODEL_SUFFIX} file")
        with path.open("rb") as file:
            header_length = int.from_bytes(file.read(_FIXED_BYTES), "little")
            if header_length > min(MAX_HEADER_BYTES, status.st_size - _FIXED_BYTES):
                raise ModelError(f"{path} is not a safetensors file, or it is cut short; fetch the model file again")
            header_bytes = file.read(header_length)
    except OSError as error:
        raise ModelError(f"cannot read the model file {path}: {error.strerror or error}") from None
    entry = _parse_header(header_bytes, path)
    return ModelEntry(**entry, path=path, size_bytes=status.st_size)


def tensor_bytes(path: Path) -> bytes:
    """What follows the header of a model file: its tensors, one after another."""
    data = path.read_bytes()
    return data[_FIXED_BYTES + int.from_bytes(data[:_FIXED_BYTES], "little") :]


def installed_models() -> list[ModelEntry]:
    """Every readable model in the searched folders, in search order; other files there are passed over."""
    entries: list[ModelEntry] = []
    seen: set[str] = set()
    for folder in model_folders():
        for path in _model_files(folder):
            # Path.resolve raises for a link that leads to itself.
            real = os.path.realpath(path)
            if real in seen:
                continue
            seen.add(real)
            try:
                entries.append(read_entry(path))
            except ModelError:
                # A stray or damaged file must not stop every other model from working; naming it raises the error.
                continue
    return entries


def shipped_models() -> list[ModelEntry]:
    """The models that came with looc."""
    return [entry for entry in installed_models() if entry.path.parent == _shipped_folder()]


def _model_files(folder: Path) -> list[Path]:
    try:
        return sorted(folder / name for name in os.listdir(folder) if name.endswith(MODEL_SUFFIX))
    except OSError:
        # It may be entered but not listed, or its file system has gone: as with stray files, the other models go on
        # working.
        return []


def find_model(spec: str | os.PathLike[str]) -> ModelEntry:
    """The model of a name (`photo`: its highest version) or of a path to a model file.

    Text that ends in `.safetensors` or holds a path separator is a path, everything else a name.

    Raises:
        ModelError: no installed model has the name, or the path holds no model file.
    """
    if not isinstance(spec, str) or spec.endswith(MODEL_SUFFIX) or "/" in spec or os.sep in spec:
        return read_entry(Path(spec))
    installed = installed_models()
    named = [entry for entry in installed if entry.name == spec]
    if not named:
        known = ", ".join(dict.fromkeys(entry.name for entry in installed)) or "none"
        raise ModelError(f"no installed model is named {spec!r} (installed: {known}); see `looc models`")
    return max(named, key=lambda entry: entry.version)


def find_by_fingerprint(fingerprint: bytes) -> ModelEntry:
    """The installed model that a .looc file was written with.

    Raises:
        ModelError: no installed model has this fingerprint.
    """
    for entry in installed_models():
        if entry.fingerprint == fingerprint:
            return entry
    raise ModelError(
        f"the file needs the model with fingerprint {fingerprint.hex()}, which is not installed;"
        f" put its {MODEL_SUFFIX} file into {place_for_models()} or name it with --model"
    )


def _parse_header(header_bytes: bytes, path: Path) -> dict:
    """The checked fields of a model file's header; ModelError for anything that is not as documented."""
    try:
        # RecursionError: deeply nested brackets.
        header = json.loads(header_bytes)
        description = json.loads(header["__metadata__"]["looc"])
        fields = {key: description[key] for key in ("name", "version", "fingerprint", "description")}
        fields["kind"] = description.get("kind", "")
        scale = description.get("quality")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ModelError(f"{path} is not a model file of looc: its header has no readable entry 'looc'") from None
    try:
        fields["quality_scale"] = QualityScale.from_json(scale)
    except ModelError as error:
        raise ModelError(f"{path} is not a model file of looc: {error}") from None
    problems = []
    if not isinstance(fields["name"], str) or not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", fields["name"]):
        problems.append("name")
    if not isinstance(fields["version"], int) or isinstance(fields["version"], bool) or fields["version"] < 0:
        problems.append("version")
    if not isinstance(fields["fingerprint"], str) or not re.fullmatch(r"[0-9a-f]{16}", fields["fingerprint"]):
        problems.append("fingerprint")
    problems += [key for key in ("description", "kind") if not isinstance(fields[key], str)]
    if problems:
        raise ModelError(f"{path} is not a model file of looc: malformed {' and '.join(problems)} in its header")
    return fields | {"fingerprint": bytes.fromhex(fields["fingerprint"])}
