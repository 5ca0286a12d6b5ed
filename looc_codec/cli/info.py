"""`looc info`: what a .looc file says about itself, read from its header without torch."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Annotated, Any

import typer

from looc_codec.cli.help import Example
from looc_codec.cli.options import FileModelOption, JsonOption
from looc_codec.cli.printing import fail, one_sentence, print_json, printable, say, size_text
from looc_codec.cli.streams import read_looc_bytes
from looc_codec.errors import LoocError, ModelError
from looc_codec.registry import ModelEntry, find_by_fingerprint, find_model

if TYPE_CHECKING:
    from looc_codec.format.container import Header

EXAMPLES = (
    Example("looc info photo.looc", "size, quality, model and parts."),
    Example("looc info --json packed/*.looc", "one line of JSON for each file."),
    Example("looc info - < photo.looc", "from standard input."),
)


def info(
    inputs: Annotated[list[str], typer.Argument(metavar="FILE...", help=".looc files, or - for standard input.")],
    model: FileModelOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show size, quality, model and parts of .looc files."""
    from looc_codec.format.container import held_segments, read_header

    named = None if model is None else find_model(model)
    failed = False
    for name in inputs:
        try:
            data = read_looc_bytes(name)
            header = read_header(data)
        except BrokenPipeError:
            raise
        except (LoocError, OSError) as error:
            failed = True
            fail(f"{name}: {one_sentence(error)}")
            if as_json:
                print_json({"input": name, "error": one_sentence(error)})
            continue
        record = describe_header(header, len(data), named)
        held, sealed = held_segments(header, data)
        record["groups"] = [held, len(header.segment_lengths_bytes)]
        problem = None
        # A file that `looc truncate` cut is shorter, too, but as it should be.
        if len(data) != header.file_bytes and not sealed:
            failed = True
            problem = f"the file has {len(data)} bytes where its header states {header.file_bytes}; get a fresh copy"
            fail(f"{name}: {problem}")
        if as_json:
            print_json({"input": name, **record, "error": problem})
        else:
            _print_record(name, record)
    if failed:
        raise typer.Exit(1)


def describe_header(header: Header, size_bytes: int, named: ModelEntry | None = None) -> dict[str, Any]:
    """The header's fields as plain values, with the name of the model where it is installed or is the one `named`."""
    entry = named if named is not None and named.fingerprint == header.fingerprint else None
    if entry is None:
        with contextlib.suppress(ModelError):
            entry = find_by_fingerprint(header.fingerprint)
    model = None if entry is None else f"{entry.name} version {entry.version}"
    # A model of the paper's kind has no qualities, and its files' field of the level says nothing.
    has_levels = entry is None or not entry.kind
    payload_bytes = sum(header.segment_lengths_bytes)
    return {
        "width": header.width,
        "height": header.height,
        "quality": entry.quality_scale.quality(header.level) if entry is not None and has_levels else None,
        "level": header.level if has_levels else None,
        "colour": ("RGB", "grey", "grey as RGB")[header.colour],
        "bytes": size_bytes,
        "bpp": round(8 * size_bytes / (header.width * header.height), 5),
        "format_version": header.version,
        "model": model,
        "fingerprint": header.fingerprint.hex(),
        "segment_bytes": list(header.segment_lengths_bytes),
        "chunk_bytes": {chunk.type: chunk.length_bytes for chunk in header.chunks},
        "filter_bytes": len(header.filter),
        "overhead_bytes": header.file_bytes
        - payload_bytes
        - len(header.filter)
        - sum(chunk.length_bytes for chunk in header.chunks),
        "code_checksum": f"{header.code_checksum:08x}",
    }


def _print_record(name: str, record: dict[str, Any]) -> None:
    chunks = ", ".join(f"{kind} {size_text(length)}" for kind, length in record["chunk_bytes"].items())
    if record["level"] is None:
        look = "its model's one quality"
    elif record["quality"] is None:
        look = f"level {record['level']}"
    else:
        look = f"quality about {record['quality']} (level {record['level']})"
    say(printable(name))
    for label, text in (
        ("picture", f"{record['width']} x {record['height']}, {record['colour']}, {look}"),
        (
            "file",
            f"{size_text(record['bytes'])}, {record['bpp']:.3f} bits per pixel, format version"
            f" {record['format_version']}",
        ),
        ("model", f"{record['model'] or 'not installed'}, fingerprint {record['fingerprint']}"),
        ("groups", "{} of {} channel groups".format(*record["groups"])),
        ("payload", ", ".join(size_text(length) for length in record["segment_bytes"])),
        ("filter", size_text(record["filter_bytes"]) if record["filter_bytes"] else "none"),
        ("metadata", chunks or "none"),
        ("overhead", size_text(record["overhead_bytes"])),
    ):
        say(f"  {label:9} {text}")
