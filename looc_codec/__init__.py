"""looc: a learned image codec with one small shared codebook.

    import looc_codec

    data = looc_codec.compress(image, quality=75)  # bytes of a .looc file
    image = looc_codec.decompress(data)            # a Pillow image

What is heavy is loaded by the first call, not by the import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from looc_codec.errors import FormatError, ImageError, LimitError, LoocError, ModelError, OptionError, OutputError

if TYPE_CHECKING:
    from looc_codec.api import Info, compress, content_notice, decompress, info, load_model, models, truncate, verify

# The one place of the version: pyproject.toml reads it from here.
__version__ = "0.1.0"

__all__ = [
    "FormatError", "ImageError", "Info", "LimitError", "LoocError", "ModelError", "OptionError", "OutputError", "__version__", "compress", "content_notice", "decompress", "info",
    "load_model", "models", "truncate", "verify",
]  # fmt: skip

_FROM_API = ("Info", "compress", "content_notice", "decompress", "info", "load_model", "models", "truncate", "verify")


def __getattr__(name: str) -> Any:
    if name in _FROM_API:
        from looc_codec import api

        globals()[name] = getattr(api, name)
        return globals()[name]
    raise AttributeError(f"module 'looc_codec' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_FROM_API})
