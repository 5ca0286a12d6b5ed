"""docs/SECURITY.md: the tests and modules that it names exist, and what it says of the package as a whole is true."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from looc_codec.cli.printing import printable

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "looc_codec"
PAGE = (ROOT / "docs" / "SECURITY.md").read_text()


def named_tests() -> list[tuple[str, str]]:
    """Pairs of test file and test; `::test_x` alone belongs to the file named before it."""
    pairs, file = [], None
    for name, test in re.findall(r"`(?:(test_\w+\.py)|tools/\w+\.py)?(?:::(test_\w+))?(?:\[\w+\])?`", PAGE):
        file = name or file
        if test:
            pairs.append((file, test))
    return pairs


def test_every_test_of_the_page_exists():
    pairs = named_tests()
    assert len(pairs) > 35
    for file, test in pairs:
        functions = {node.name for node in ast.walk(ast.parse((ROOT / "tests" / file).read_text())) if isinstance(node, ast.FunctionDef)}
        assert test in functions, f"docs/SECURITY.md names {file}::{test}, which is not there"


def test_every_module_of_the_page_exists_and_holds_what_is_named():
    places = re.findall(r"`([\w/]+\.py)` `(\w+)`", PAGE)
    assert len(places) > 12
    for module, name in places:
        assert re.search(rf"(def|class) {name}\b", (PACKAGE / module).read_text()), f"looc_codec/{module} has no {name}"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_unpickles(path):
    """Weights, checkpoints and caches come from files; none of them may hold code."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            assert not {name.partition(".")[0] for name in names} & {"pickle", "dill", "marshal", "shelve", "joblib"}
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("eval", "exec", "torch.load") and "allow_pickle" not in {keyword.arg for keyword in node.keywords}


def test_control_characters_are_escaped():
    assert printable("a\x1b[2J\nb\u202e") == "a\\x1b[2J\\nb\\u202e"
    assert printable("ümlaut 写真 name.png") == "ümlaut 写真 name.png"
