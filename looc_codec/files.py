"""Which files are pictures by their names, and how an output comes to be there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from typing import IO, BinaryIO

from looc_codec.errors import OutputError

STANDARD_STREAM = "-"
LOOC_SUFFIX = ".looc"
PICTURE_KINDS: dict[str, tuple[str, ...]] = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "MPO": (".mpo",),
    "WEBP": (".webp",),
    "AVIF": (".avif", ".avifs"),
    "HEIF": (".heic", ".heif", ".heics", ".heifs", ".hif"),
    "JXL": (".jxl",),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "GIF": (".gif",),
    "ICO": (".ico",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "JPEG2000": (".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c"),
    "TGA": (".tga", ".icb", ".vda", ".vst"),
    "QOI": (".qoi",),
    "PCX": (".pcx",),
    "SGI": (".sgi", ".rgb", ".rgba", ".bw"),
    "ICNS": (".icns",),
}
"""The kinds of pictures that are read, by Pillow's names, each with the suffixes of its files.

Written out, since Pillow knows them only once all of its plug-ins are loaded, and those of HEIC and JPEG XL only where
a plug-in for them is installed. EPS and PDF are left out, since they would start other programs on the file; stubs
decode nothing.
"""

PICTURE_SUFFIXES = frozenset(suffix for suffixes in PICTURE_KINDS.values() for suffix in suffixes)
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


part_owner = secrets.token_hex(8)
"""What the names of this process's unfinished outputs have in common, so that they can be found after its death."""


def remove_parts(folder: str, owner: str) -> None:
    """Removes the unfinished outputs of a process that is gone."""
    with contextlib.suppress(OSError):
        for name in os.listdir(folder or os.curdir):
            if name.startswith(f".looc-{owner}-") and name.endswith(".part"):
                os.unlink(os.path.join(folder, name))


@contextlib.contextmanager
def write_atomically(
    path: str | os.PathLike[str], *, force: bool = False, modified_ns: int | None = None
) -> Iterator[BinaryIO]:
    """A binary file object whose content is at `path` once the block has ended well; after any exception nothing is.

    The bytes go to a temporary file in the same folder, which takes the name at the end. With `force` it replaces what
    is there (the file that a link points to; its permissions are kept), without it never, even if the file appeared
    meanwhile. Devices and pipes are written directly. With `modified_ns` that is the file's time of modification, in
    nanoseconds, instead of now.

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
        temporary = os.path.join(os.path.dirname(target), f".looc-{part_owner}-{secrets.token_hex(8)}.part")
        file = open(target if direct else temporary, "wb" if direct else "xb")
    if direct:
        with _as_output_error(path, lambda error: error.errno in _WRITE_ERRNOS), file:
            yield file
        return
    try:
        with _as_output_error(path, lambda error: error.errno in _WRITE_ERRNOS), file:
            yield file
        with _as_output_error(path, lambda error: True):
            if modified_ns is not None:
                os.utime(temporary, ns=(modified_ns, modified_ns))
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
