"""Imports point downwards only: the layers of the package, read from its source."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "looc_codec"

# From top to bottom; a module may import modules of lower layers, and of its own folder.
LAYERS = (
    {"__main__"},
    {"cli"},
    {"selftest", "reproduction"},
    {"report", "exactness", "pillow_plugin", "webserver"},
    {"api"},
    {"training", "effort"},
    {"networks"},
    {"quantizers", "data", "datasets"},
    {"codec", "images"},
    {"format"},
    {"webpage"},
    {"metrics", "files", "registry", "config"},
    {"quality"},
    {"errors", "progress"},
)
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}
TRAINING = ("training", "effort", "networks", "quantizers", "data", "datasets", "reproduction")
"""What may import torch. Beside it metrics does where a measurement's own package needs it, and api asks whether it is there."""


def package_imports(path: Path) -> set[str]:
    """The parts of looc_codec that a module imports anywhere, functions included; TYPE_CHECKING blocks left out."""
    tree = ast.parse(path.read_text())
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    parts = set()
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            pytest.fail(f"{path}: relative import; write the full name")
        else:
            continue
        parts |= {name.split(".")[1] for name in names if name.startswith("looc_codec.")}
    return parts


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if "weights" not in path.parts)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if own == "__init__":
        # The package's front names what api and errors define.
        assert package_imports(path) <= {"api", "errors"}
        return
    assert own in LEVEL, f"looc_codec/{own} has no layer yet: add it to LAYERS in this test"
    for part in package_imports(path) - {own, "__version__"}:
        assert LEVEL[part] >= LEVEL[own], f"{path} imports looc_codec.{part}, which lies above it"
        # Two parts of one layer may build on each other (prior on quantizers), but never in a circle.
        if LEVEL[part] == LEVEL[own]:
            assert own not in all_imports_of(part), f"looc_codec.{own} and looc_codec.{part} import each other"


def all_imports_of(part: str) -> set[str]:
    return set().union(*(package_imports(path) for path in files_of(part)))


def files_of(part: str) -> list[Path]:
    return [PACKAGE / f"{part}.py"] if (PACKAGE / f"{part}.py").exists() else sorted((PACKAGE / part).rglob("*.py"))


def foreign_imports(path: Path) -> set[str]:
    """The packages that a module imports anywhere, functions included."""
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])
    return imported


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_torch_is_for_training_alone(path):
    parts = path.relative_to(PACKAGE).parts
    if parts[0].removesuffix(".py") not in (*TRAINING, "metrics", "api", "report"):
        assert not foreign_imports(path) & {"torch", "torchvision", "onnx"}


FORBIDDEN = {
    "format/constants": {"numpy", "PIL", "onnxruntime"},
    "format/container": {"numpy", "PIL", "onnxruntime"},
    "format/order": {"PIL", "onnxruntime"},
    "format/trellis": {"PIL", "onnxruntime"},
    "format/entropy": {"PIL", "onnxruntime"},
    "format/codes": {"PIL", "onnxruntime"},
    "format/integers": {"PIL", "onnxruntime"},
    "format/filter": {"PIL", "onnxruntime"},
    "codec": {"PIL"},
    "images": {"onnxruntime", "constriction"},
    "registry": {"numpy", "safetensors"},
    "quality": {"numpy", "safetensors"},
    "webpage": {"numpy", "PIL", "onnxruntime"},
    "webserver": {"numpy", "PIL", "onnxruntime"},
    "errors": {"numpy", "PIL"},
    "networks": {"PIL", "constriction", "onnxruntime"},
}


@pytest.mark.parametrize("part", FORBIDDEN)
def test_light_modules_stay_light(part):
    assert not set().union(*map(foreign_imports, files_of(part))) & FORBIDDEN[part]


# From top to bottom, as LAYERS; reading and writing know nothing of each other.
IMAGES_ORDER = (
    "__init__", "writing", "reading", "chunks", "alpha", "colour", "metadata",
    "texts", "exif", "xmp", "jpeg_xl", "profiles", "opening", "content", "picture",
)  # fmt: skip


def test_the_modules_of_images_point_downwards():
    paths = files_of("images")
    assert {path.stem for path in paths} == set(IMAGES_ORDER)
    for path in paths:
        below = IMAGES_ORDER[IMAGES_ORDER.index(path.stem) + 1 :]
        imported = re.findall(r"from looc_codec\.images\.(\w+) import", path.read_text())
        assert set(imported) <= set(below), f"{path} imports what does not lie below it"
        assert path.stem != "writing" or "reading" not in imported
