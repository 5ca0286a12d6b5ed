"""Where outputs go, and how they get there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from looc_codec.errors import OutputError

STANDARD_STREAM = "-"
LOOC_SUFFIX = ".looc"
PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".avif", ".tif", ".tiff", ".bmp", ".gif"})


@contextlib.contextmanager
def write_atomically(path: str | Path, *, force: bool = False) -> Iterator[BinaryIO]:
    """A binary file that appears under `path` only when the block ends without an exception.

    Raises OutputError when the output exists (without `force`), its folder cannot be written, or the disk is full;
    nothing is left behind then.
    """
    path = Path(path)
    if not force and os.path.lexists(path):
        raise OutputError(f"{path} exists already; give another -o or --force")
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.", suffix=".unfinished")
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            # mkstemp makes private files; outputs get the permissions that any new file would.
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(temporary, 0o666 & ~mask)
            yield file
        if force:
            os.replace(temporary, path)
        else:
            _publish_new(temporary, path)
        temporary = None
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _publish_new(temporary: Path, path: Path) -> None:
    """Gives the finished file its name unless something has taken that name meanwhile."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise OutputError(f"{path} exists already; give another -o or --force") from None
    except OSError:
        # Some file systems have no hard links.
        os.rename(temporary, path)
    else:
        temporary.unlink()


def plan_outputs(inputs: Sequence[str], output: str | None, suffix: str) -> list[tuple[str, str]]:
    """Pairs of input and output; folders are expanded recursively and keep their tree under an output folder.

    `suffix` is that of the outputs and says what to look for in folders: pictures for ".looc", else .looc files.
    Raises OutputError when several inputs would share one output, or an output is an input.
    """
    wanted = PICTURE_SUFFIXES if suffix == LOOC_SUFFIX else {LOOC_SUFFIX}
    found: list[tuple[str, str]] = []
    for entry in inputs:
        if entry != STANDARD_STREAM and os.path.isdir(entry):
            files = [path for path in sorted(Path(entry).rglob("*")) if path.suffix.lower() in wanted and path.is_file()]
            found += [(str(path), str(path.relative_to(entry))) for path in files]
        else:
            found.append((entry, os.path.basename(entry)))
    if not found:
        raise OutputError(f"no {'pictures' if suffix == LOOC_SUFFIX else '.looc files'} were found in {', '.join(inputs)}")
    many = len(found) > 1 or any(entry != STANDARD_STREAM and os.path.isdir(entry) for entry in inputs)
    pairs = [(source, _target(source, relative, output, suffix, many)) for source, relative in found]
    _refuse_collisions(pairs)
    return pairs


def _target(source: str, relative: str, output: str | None, suffix: str, many: bool) -> str:
    if output == STANDARD_STREAM or (source == STANDARD_STREAM and output is None):
        if many:
            raise OutputError("several inputs cannot all go to standard output; give -o a folder")
        return STANDARD_STREAM
    if output is None:
        return str(Path(source).with_suffix(suffix))
    if many or os.path.isdir(output) or output.endswith(os.sep):
        if os.path.isfile(output):
            raise OutputError(f"{output} is a file, but several inputs need a folder; give -o a folder")
        relative = "stdin" if source == STANDARD_STREAM else relative
        return str(Path(output) / Path(relative).with_suffix(suffix))
    return output


def _refuse_collisions(pairs: list[tuple[str, str]]) -> None:
    taken: dict[str, str] = {}
    sources = {os.path.realpath(source) for source, _ in pairs if source != STANDARD_STREAM}
    for source, target in pairs:
        if target == STANDARD_STREAM:
            continue
        real = os.path.realpath(target)
        if real in sources:
            raise OutputError(f"the output {target} is an input; give another -o")
        if real in taken:
            raise OutputError(f"{taken[real]} and {source} would both become {target}; compress them into different folders")
        taken[real] = source
