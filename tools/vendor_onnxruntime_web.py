"""Fetches the files of onnxruntime-web that the page needs from its npm package into web/vendor/onnxruntime-web.

    python tools/vendor_onnxruntime_web.py [VERSION]     # a release, by default the one that is there
    python tools/vendor_onnxruntime_web.py --check       # whether the files are those that were recorded

Needs npm. The WebAssembly module is stored compressed, since the Python package brings it along: `looc view` sends it as it is with
`Content-Encoding: gzip`, `looc web` writes it unpacked. vendored.json records release, the package's own checksum, and those of the files.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "web" / "vendor" / "onnxruntime-web"
RECORD = FOLDER / "vendored.json"
PACKAGE = "onnxruntime-web"
MODULES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs")
WASM = "ort-wasm-simd-threaded.wasm"
LICENSE_NOTE = "LICENSE"
_SOURCE_MAP = b"//# sourceMappingURL="


def fetch(version: str) -> None:
    """Replaces the vendored files by those of a release."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        packed = json.loads(_npm("pack", f"{PACKAGE}@{version}", "--json", "--pack-destination", str(folder)))[0]
        with tarfile.open(folder / packed["filename"]) as archive:
            archive.extractall(folder, filter="data")
        dist = folder / "package" / "dist"
        files = {name: _without_source_map((dist / name).read_bytes()) for name in MODULES}
        wasm = (dist / WASM).read_bytes()
        # Neither name nor time in the header: the same module always gives the same bytes.
        files[f"{WASM}.gz"] = gzip.compress(wasm, 9, mtime=0)
        for name, data in files.items():
            (FOLDER / name).write_bytes(data)
    record = {
        "package": PACKAGE, "version": packed["version"], "integrity": packed["integrity"],
        "sha256": {name: _sha256(data) for name, data in (files | {WASM: wasm}).items()},
    }  # fmt: skip
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
    for name in (*files, RECORD.name):
        print(f"{(FOLDER / name).relative_to(ROOT)}: {(FOLDER / name).stat().st_size} bytes")


def differences() -> list[str]:
    """What is wrong with the vendored files, one sentence each."""
    record = json.loads(RECORD.read_text())
    problems = []
    for name, expected in record["sha256"].items():
        path = FOLDER / name
        data = gzip.decompress((FOLDER / f"{WASM}.gz").read_bytes()) if name == WASM else path.read_bytes() if path.exists() else b""
        if _sha256(data) != expected:
            problems.append(f"{name} is not the file that was recorded")
    known = {*record["sha256"], RECORD.name, LICENSE_NOTE} - {WASM}
    problems += [f"{path.name} is not recorded" for path in FOLDER.iterdir() if path.name not in known]
    return problems


def _without_source_map(data: bytes) -> bytes:
    """A module without the line that names its source map, which is not vendored."""
    return data[: data.rindex(_SOURCE_MAP)] if _SOURCE_MAP in data else data


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _npm(*arguments: str) -> str:
    npm = shutil.which("npm")
    if npm is None:
        sys.exit("npm is not installed; the vendored files stay as they are")
    done = subprocess.run([npm, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"npm {arguments[0]} failed: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("version", nargs="?", help="release of onnxruntime-web; by default the one that is there")
    parser.add_argument("--check", action="store_true", help="only compare the files with their recorded checksums")
    arguments = parser.parse_args()
    if arguments.check:
        problems = differences()
        print("\n".join(problems) or "the vendored files are those that were recorded")
        sys.exit(bool(problems))
    fetch(arguments.version or json.loads(RECORD.read_text())["version"])


if __name__ == "__main__":
    main()
