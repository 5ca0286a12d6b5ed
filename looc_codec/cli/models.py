"""`looc models`: which models are installed, and where."""

from __future__ import annotations

from looc_codec.cli.options import JsonOption
from looc_codec.cli.printing import note, print_json, printable, size_text
from looc_codec.registry import installed_models, place_for_models


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
                }
            )
            continue
        print(f"{entry.name}  version {entry.version}  {entry.fingerprint.hex()}  {size_text(entry.size_bytes)}")
        if entry.description:
            print(f"    {printable(entry.description)}")
        print(f"    {printable(str(entry.path))}")
    if not entries:
        note(f"no models are installed; put .safetensors model files into {place_for_models()}")
