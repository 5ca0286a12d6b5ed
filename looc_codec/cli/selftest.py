"""`looc selftest`: whether this installation decodes as it should."""

from __future__ import annotations

import dataclasses

import typer

from looc_codec.cli.help import Example
from looc_codec.cli.options import JsonOption, ModelOption, QuietOption
from looc_codec.cli.printing import fail, print_json, printable, say
from looc_codec.registry import DEFAULT_MODEL

EXAMPLES = (
    Example("looc selftest", "checks this installation and its default model."),
    Example("looc selftest -m photo-psnr", "with another model."),
    Example("looc selftest --quiet && echo fine", "prints only what is wrong."),
)


def selftest(model: ModelOption = DEFAULT_MODEL, quiet: QuietOption = False, as_json: JsonOption = False) -> None:
    """Check models, a golden file, and that codes are equal under all threads, instruction sets and devices here. Takes
    about half a minute."""
    from looc_codec.selftest import run_checks

    passed = failed = 0
    for check in run_checks(model):
        passed, failed = passed + check.passed, failed + (not check.passed)
        if as_json:
            print_json(dataclasses.asdict(check))
        if not check.passed:
            fail(f"{check.kind} {check.name}: {check.detail}")
        elif not quiet and not as_json:
            say(printable(f"ok  {check.kind:9}  {check.name}: {check.detail}"))
    if not quiet and not as_json:
        say(f"{passed} checks passed, {failed} failed")
    if failed:
        raise typer.Exit(1)
