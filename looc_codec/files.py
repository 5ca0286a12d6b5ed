"""Where outputs go, and how a file comes to be there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import IO, BinaryIO

from looc_codec.errors import ImageError, OutputError

STANDARD_STREAM = "-"
LOOC_SUFFIX = ".looc"
PICTURE_SUFFIXES = frozenset(
    ".png .apng .jpg .jpeg .jpe .jfif .webp .avif .heic .heif .tif .tiff .bmp .dib .gif .ppm .pgm .pbm .pnm .jp2 .jxl .tga .qoi".split()
)
"""Suffixes, in lower case, of the files that are taken from a folder of pictures."""

# Reported by a write, wherever it happens in the caller's block; any other OSError there may be about another file.
_WRITE_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}


_READ_BYTES = 2**20


def read_at_most(file: IO[bytes], limit_bytes: int) -> bytes:
    """The bytes of a file from its position on, no more than `limit_bytes` of them.

    `file.read(limit_bytes)` would set aside the whole limit before it reads a file of a hundred bytes.
    """
    parts = []
    while limit_bytes > 0 and (part := file.read(min(_READ_BYTES, limit_bytes))):
        parts.append(part)
        limit_bytes -= len(part)
    return b"".join(parts)


@contextlib.contextmanager
def write_atomically(path: str | os.PathLike[str], *, force: bool = False) -> Iterator[BinaryIO]:
    """A binary file object whose content is at `path` once the block has ended well; after any exception nothing is.

    The bytes go to a temporary file in the same folder, which takes the name at the end. With `force` it replaces what
    is there (the file that a link points to; its permissions are kept), without it never, even if the file appeared
    meanwhile. Devices and pipes are written directly.

    Raises:
        OutputError: `path` exists and `force` is not given, its folder is missing, or it cannot be written.
    """
    with _as_output_error(path, lambda error: True):
        # The link stays, the file that it points to is replaced.
        target = os.path.realpath(path) if force else os.fspath(path)
        existing = _status(target)
        if existing is not None and stat.S_ISDIR(existing.st_mode):
            raise OutputError(f"{path} is a folder; give the name of a file")
        direct = existing is not None and not stat.S_ISREG(existing.st_mode)
        if os.path.lexists(target) and not direct and not force:
            raise _exists(path)
        temporary = os.path.join(os.path.dirname(target), f".looc-{secrets.token_hex(8)}.part")
        file = open(target if direct else temporary, "wb" if direct else "xb")
    if direct:
        with _as_output_error(path, lambda error: error.errno in _WRITE_ERRNOS), file:
            yield file
        return
    try:
        with _as_output_error(path, lambda error: error.errno in _WRITE_ERRNOS), file:
            yield file
        with _as_output_error(path, lambda error: True):
            if force:
                if existing is not None:
                    # Some file systems have no permissions to keep.
                    with contextlib.suppress(OSError):
                        os.chmod(temporary, stat.S_IMODE(existing.st_mode))
                os.replace(temporary, target)
            else:
                _name_unless_taken(temporary, target, path)
    finally:
        # Gone already unless something failed; KeyboardInterrupt comes by here as well.
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def plan_outputs(
    inputs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str] | None,
    suffix: str,
    *,
    known_suffixes: Collection[str] | None = None,
) -> list[tuple[str, str]]:
    """Pairs of input file and output file, `-` for the standard streams.

    A folder among the inputs stands for the files in it, subfolders included, whose suffix is known (by default those
    of pictures where `suffix` is `.looc`, else `.looc`); hidden ones are passed over. Without `output` each result lies
    beside its input, with `suffix` in place of the input's. `output` is a file for one input; for several, for a folder,
    or where it ends in a slash, it is a folder, made if missing, in which subfolders are kept. Input files need not exist.

    >>> plan_outputs(["a.png", "b.final.png"], None, ".looc")
    [('a.png', 'a.looc'), ('b.final.png', 'b.final.looc')]

    Raises:
        OutputError: two inputs have one output, an output is an input, or `output` does not fit the inputs.
        ImageError: a folder holds no file of a known kind, or cannot be listed.
    """
    if known_suffixes is None:
        known_suffixes = PICTURE_SUFFIXES if suffix == LOOC_SUFFIX else {LOOC_SUFFIX}
    # Each source with the path that it keeps below an output folder; a file named twice counts once.
    sources: dict[str, tuple[str, str]] = {}
    for name in map(os.fspath, inputs):
        if name == STANDARD_STREAM:
            sources.setdefault(name, (name, "stdin"))
        elif os.path.isdir(name):
            for path in _files_below(name, known_suffixes):
                sources.setdefault(os.path.abspath(path), (path, os.path.relpath(path, name)))
        else:
            sources.setdefault(os.path.abspath(name), (name, os.path.basename(name)))
    output = None if output is None else os.fspath(output)
    if output == STANDARD_STREAM:
        if len(sources) != 1:
            raise OutputError(f"{len(sources)} files cannot go to standard output together; give one input, or a folder with -o")
        return [(source, STANDARD_STREAM) for source, _ in sources.values()]
    into_folder = output is not None and (
        os.path.isdir(output) or output.endswith(("/", os.sep)) or len(sources) > 1 or any(map(os.path.isdir, inputs))
    )
    if into_folder and os.path.lexists(output) and not os.path.isdir(output):
        raise OutputError(f"{output} is a file, but the inputs need a folder; give a folder with -o")
    pairs = []
    for source, kept in sources.values():
        if output is None:
            target = STANDARD_STREAM if source == STANDARD_STREAM else _with_suffix(source, suffix)
        elif into_folder:
            target = _with_suffix(os.path.join(output, kept), suffix)
        else:
            target = output
        pairs.append((source, target))
    _refuse_collisions(pairs)
    if into_folder:
        for folder in sorted({os.path.dirname(target) for _, target in pairs}):
            with _as_output_error(folder, lambda error: True):
                os.makedirs(folder, exist_ok=True)
    return pairs


def _refuse_collisions(pairs: list[tuple[str, str]]) -> None:
    inputs = {os.path.realpath(source) for source, _ in pairs if source != STANDARD_STREAM}
    taken: dict[str, str] = {}
    for source, target in pairs:
        if target == STANDARD_STREAM:
            continue
        real = os.path.realpath(target)
        if real in inputs:
            raise OutputError(f"the output {target} is one of the inputs; give another name with -o")
        if real in taken:
            raise OutputError(f"{taken[real]} and {source} would both become {target}; rename one, or take them one by one with -o")
        taken[real] = source


def _files_below(folder: str, known_suffixes: Collection[str]) -> list[str]:
    def refuse(error: OSError) -> None:
        raise ImageError(f"cannot list the folder {error.filename}: {error.strerror}; check its permissions") from None

    found = []
    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            os.path.join(parent, name)
            for name in sorted(names)
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in known_suffixes
        ]
    if not found:
        kinds = " ".join(sorted(known_suffixes))
        raise ImageError(f"the folder {folder} holds no file of a known kind ({kinds}); name the files themselves")
    return found


def _with_suffix(path: str, suffix: str) -> str:
    return str(Path(path).with_suffix(suffix)) if Path(path).name else path


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def _name_unless_taken(temporary: str, target: str, path: str | os.PathLike[str]) -> None:
    """Gives the temporary file its final name, unless another process took that name meanwhile."""
    try:
        os.link(temporary, target)
        return
    except FileExistsError:
        raise _exists(path) from None
    except (OSError, NotImplementedError):
        # No hard links here (FAT, some network shares): take the name first, then replace our own empty file.
        pass
    try:
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        raise _exists(path) from None
    os.replace(temporary, target)


def _exists(path: str | os.PathLike[str]) -> OutputError:
    return OutputError(f"{path} exists already; give another name with -o, or --force to replace it")


@contextlib.contextmanager
def _as_output_error(path: str | os.PathLike[str], concerns_output: Callable[[OSError], bool]) -> Iterator[None]:
    """Turns an OSError about the output into one sentence that names it."""
    try:
        yield
    except FileNotFoundError as error:
        if not concerns_output(error):
            raise
        raise OutputError(f"cannot write {path}: its folder does not exist; make it first") from None
    except OSError as error:
        if not concerns_output(error):
            raise
        raise OutputError(f"cannot write {path}: {error.strerror or error}; free or choose another place") from None
    except ValueError as error:
        # A name with a zero byte; anything else comes from the caller's own block.
        if "null byte" not in str(error):
            raise
        raise OutputError(f"cannot write {str(path)!r}: the name holds a zero byte; give another name") from None
