"""`looc models`: which models are installed, and where."""

from __future__ import annotations

from looc_codec.cli.help import Example
from looc_codec.cli.options import JsonOption
from looc_codec.cli.printing import note, print_json, printable, say, size_text
from looc_codec.quality import PLAIN
from looc_codec.registry import DEFAULT_MODEL, installed_models, place_for_models

EXAMPLES = (
    Example("looc models", "names, versions, sizes and places."),
    Example("looc models --json", "the same, for scripts."),
    Example("LOOC_MODELS=runs/a looc models", "with those of another folder."),
)


def models(as_json: JsonOption = False) -> None:
    """List the installed models. Reads only their headers."""
    entries = installed_models()
    for entry in entries:
        if as_json:
            print_json(
                {
                    "name": entry.name,
                    "version": entry.version,
                    "fingerprint": entry.fingerprint.hex(),
                    "path": str(entry.path),
                    "bytes": entry.size_bytes,
                    "description": entry.description,
                    "levels": entry.quality_scale.to_json()["levels"],
                }
            )
            continue
        default = "  (default)" if entry.name == DEFAULT_MODEL else ""
        size = size_text(entry.size_bytes)
        say(f"{entry.name}{default}  version {entry.version}  {entry.fingerprint.hex()}  {size}")
        if entry.description:
            say(f"    {printable(entry.description)}")
        if entry.quality_scale == PLAIN:
            say("    not measured: a quality is a level")
        say(f"    {printable(str(entry.path))}")
    if not entries:
        note(f"no models are installed; put .safetensors model files into {place_for_models()}")
