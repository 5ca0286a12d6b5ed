"""Every error that looc raises on purpose. Each message is one sentence: what is wrong, where, and what to do."""

from __future__ import annotations


class LoocError(Exception):
    """Base of all errors that a user, a file or a machine can cause; anything else is a bug."""


class FormatError(LoocError):
    """The bytes are not a .looc file that this version can read; the children say which way."""


class NotLoocError(FormatError):
    """The data does not begin like a .looc file."""


class UnsupportedError(FormatError):
    """A newer format version, or a critical chunk, that this version of looc does not know."""


class TruncatedError(FormatError):
    """The data ends before the length that its header states."""


class TrailingBytesError(FormatError):
    """An intact .looc file is followed by bytes that do not belong to it."""


class MalformedError(FormatError):
    """A field holds a value that no writer of looc produces."""


class DamagedError(FormatError):
    """A checksum does not match: the bytes were changed after writing."""


class LimitError(FormatError):
    """A size is zero, or above a limit of the format or of the caller."""


class ModelError(LoocError):
    """No installed model has this name or fingerprint, or a weights file is bad."""


class ImageError(LoocError):
    """An input picture cannot be read or used."""


class OptionError(LoocError):
    """An argument has a value that there is not."""


class OutputError(LoocError):
    """An output exists already, or cannot be written."""
