"""Which files a command works on, and what its outputs are called; nothing is written."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from looc_codec.errors import ImageError, LoocError, NotLoocError, OutputError
from looc_codec.files import LOOC_SUFFIX, PICTURE_SUFFIXES, STANDARD_STREAM
from looc_codec.format.container import MAGIC


@dataclass
class Pair:
    """An input and its output, `-` for the standard streams; or what is wrong with this input alone."""

    source: str
    target: str | None = None
    refusal: LoocError | None = None


@dataclass
class Names:
    """The pairs of one command line; `passed_over` counts what lies in its folders and was not taken, by kind."""

    pairs: list[Pair]
    into_folder: bool = False
    passed_over: Counter[str] = field(default_factory=Counter)


def name_outputs(
    inputs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str] | None,
    suffix: str,
    *,
    kinds: Collection[str] | None = None,
) -> Names:
    """Pairs of input file and output file.

    A folder among the inputs stands for the files in it, subfolders included, whose suffix is one of `kinds` (by
    default those of pictures where `suffix` is `.looc`, else `.looc`); hidden ones are passed over. Without `output`
    each result lies beside its input, with `suffix` in place of the input's where that is one of `kinds`, and after it
    where it is not. `output` is a file for one input; for several, for a folder, or where it ends in a slash, it is a
    folder, in which subfolders are kept. Input files need not exist.

    What concerns one input is its pair's refusal: a folder that cannot be listed or holds nothing, an output that
    another input would have as well, or that is itself an input.

    >>> [(pair.source, pair.target) for pair in name_outputs(["a.png", "b.final.png", "scan.01"], None, ".looc").pairs]
    [('a.png', 'a.looc'), ('b.final.png', 'b.final.looc'), ('scan.01', 'scan.01.looc')]

    Raises:
        OutputError: `output` does not fit the inputs.
    """
    if kinds is None:
        kinds = PICTURE_SUFFIXES if suffix == LOOC_SUFFIX else {LOOC_SUFFIX}
    names, kept_paths = _found(inputs, kinds, suffix)
    output = None if output is None else os.fspath(output)
    if output == STANDARD_STREAM:
        if len(names.pairs) != 1:
            raise OutputError(
                f"{len(names.pairs)} files cannot go to standard output together; give one input, or a folder with -o"
            )
        names.pairs[0].target = STANDARD_STREAM
        return names
    names.into_folder = output is not None and _is_for_folder(output, len(names.pairs), any(map(os.path.isdir, inputs)))
    if output is not None and not names.into_folder and suffix == LOOC_SUFFIX and _end(output) in PICTURE_SUFFIXES:
        raise OutputError(
            f"{output} is the name of a picture, but a .looc file would be written; give a name that ends in .looc"
        )
    for pair, kept in zip(names.pairs, kept_paths, strict=True):
        if pair.refusal is not None:
            continue
        if output is None:
            pair.target = (
                STANDARD_STREAM if pair.source == STANDARD_STREAM else _with_suffix(pair.source, suffix, kinds)
            )
        elif names.into_folder:
            pair.target = _with_suffix(os.path.join(output, kept), suffix, kinds)
        else:
            pair.target = output
        if (
            suffix == LOOC_SUFFIX
            and LOOC_SUFFIX not in kinds
            and _end(pair.source) == LOOC_SUFFIX
            and _begins_as_looc(pair.source)
        ):
            pair.refusal = ImageError(f"{pair.source} is a .looc file already; looc decompress restores its picture")
    _refuse_collisions(names.pairs, suffix)
    return names


def name_inputs(inputs: Sequence[str | os.PathLike[str]], kinds: Collection[str]) -> Names:
    """As `name_outputs`, of a command that has no outputs."""
    return _found(inputs, kinds, "")[0]


def _found(inputs: Sequence[str | os.PathLike[str]], kinds: Collection[str], suffix: str) -> tuple[Names, list[str]]:
    """The inputs, folders expanded and each once, and the path that each keeps below an output folder."""
    names = Names([])
    found: dict[str, tuple[Pair, str]] = {}
    for name in map(os.fspath, inputs):
        if name == STANDARD_STREAM:
            found.setdefault(name, (Pair(name), "stdin"))
        elif os.path.isdir(name):
            for pair in _below(name, kinds, suffix, names.passed_over):
                found.setdefault(_absolute(pair.source), (pair, os.path.relpath(pair.source, name)))
        else:
            found.setdefault(_absolute(name), (Pair(name), os.path.basename(name)))
    names.pairs = [pair for pair, _ in found.values()]
    return names, [kept for _, kept in found.values()]


def _is_for_folder(output: str, count: int, has_folder: bool) -> bool:
    """Whether the outputs go into a folder of the name `output`."""
    if not output:
        raise OutputError("the name given with -o is empty; give a file, a folder or -")
    several = count > 1 or has_folder
    if os.path.isdir(output):
        return True
    if several and os.path.lexists(output):
        raise OutputError(f"{output} is a file, but the inputs need a folder; give a folder with -o")
    if output.endswith(("/", os.sep)):
        return True
    if several and _end(output) in {LOOC_SUFFIX, *PICTURE_SUFFIXES}:
        what = f"{count} inputs" if count > 1 else "a folder"
        raise OutputError(
            f"{output} is the name of one file, but {what} cannot become one; give a folder, or {output}/ for a new"
            " one of that name"
        )
    return several


def _refuse_collisions(pairs: Sequence[Pair], suffix: str) -> None:
    inputs = {os.path.realpath(pair.source) for pair in pairs if pair.source != STANDARD_STREAM}
    claims: dict[str, list[Pair]] = {}
    for pair in pairs:
        if pair.refusal is not None or pair.target == STANDARD_STREAM:
            continue
        real = os.path.realpath(pair.target)
        if real in inputs:
            pair.refusal = _own_or_other_input(pair, suffix)
        claims.setdefault(real, []).append(pair)
    for claimants in claims.values():
        for pair in claimants[1:] and claimants:
            other = next(one.source for one in claimants if one is not pair)
            pair.refusal = OutputError(
                f"{pair.source} would become {pair.target}, and so would {other}; rename one, or take them one by"
                " one with -o"
            )


def _own_or_other_input(pair: Pair, suffix: str) -> LoocError:
    """What is wrong where an output has the name of an input."""
    if os.path.realpath(pair.source) != os.path.realpath(pair.target):
        return OutputError(
            f"{pair.source} would become {pair.target}, which is another of the inputs; give another name with -o"
        )
    if suffix != LOOC_SUFFIX and not _begins_as_looc(pair.source):
        return NotLoocError(f"{pair.source} is not a .looc file; looc compress makes one of a picture")
    return OutputError(f"{pair.source} would be replaced by its own output; give another name with -o")


def _begins_as_looc(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def _below(folder: str, kinds: Collection[str], suffix: str, passed_over: Counter[str]) -> Iterator[Pair]:
    """The files of a folder and its subfolders that are of known kinds, and the folders that are of no use."""
    problems: list[Pair] = []

    def refuse(error: OSError) -> None:
        problems.append(
            Pair(
                error.filename,
                None,
                ImageError(f"cannot list the folder {error.filename}: {error.strerror}; check its permissions"),
            )
        )

    taken = False
    for parent, folders, files in os.walk(folder, onerror=refuse):
        # os.walk lists links to folders, but does not follow them: they may lead in a circle.
        passed_over["linked folders"] += sum(os.path.islink(os.path.join(parent, name)) for name in folders)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            kind = _kind_passed_over(os.path.join(parent, name), kinds)
            if kind is None:
                taken = True
                yield Pair(os.path.join(parent, name))
            elif kind != suffix:
                passed_over[kind] += 1
    yield from problems
    if not taken and not problems:
        known = " ".join(sorted(kinds))
        yield Pair(
            folder,
            None,
            ImageError(f"the folder {folder} holds no file of a known kind ({known}); name the files themselves"),
        )


def _kind_passed_over(path: str, kinds: Collection[str]) -> str | None:
    """None for a file to take, else the kind that it is counted under; empty for what nobody expects to be taken."""
    name = os.path.basename(path)
    if _end(name) not in kinds:
        return "" if name.startswith(".") else _end(name) or "without suffix"
    if name.startswith("."):
        return "hidden"
    try:
        # Opening a pipe in which nobody writes would wait for ever.
        return None if stat.S_ISREG(os.stat(path).st_mode) else "pipes and devices"
    except OSError:
        # A link that leads nowhere, for example: reading says what is wrong with it.
        return None


_KINDS_SHOWN = 6


def passed_over_sentence(passed_over: Counter[str]) -> str | None:
    """One line about what was not taken from folders; None where that is nothing."""
    counts = [(kind, count) for kind, count in passed_over.most_common() if kind and count]
    if not counts:
        return None
    if len(counts) > _KINDS_SHOWN:
        counts[_KINDS_SHOWN:] = [("others", sum(count for _, count in counts[_KINDS_SHOWN:]))]
    return "passed over in folders: " + ", ".join(f"{kind} ({count})" for kind, count in counts)


def _absolute(path: str) -> str:
    try:
        return os.path.abspath(path)
    except OSError:
        # The working folder has been removed; the name is still good for an error.
        return path


def _with_suffix(path: str, suffix: str, kinds: Collection[str]) -> str:
    """`suffix` in place of a suffix of one of `kinds`; after any other, which is a part of the name (`scan.01`)."""
    stem, end = os.path.splitext(path)
    return (stem if end.lower() in kinds else path) + suffix


def _end(name: str) -> str:
    return os.path.splitext(name)[1].lower()
