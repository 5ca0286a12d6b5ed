"""ONNX Runtime's wheels report use to their maker unless told not to; looc tells them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the cache lies elsewhere")
def test_the_runtime_leaves_no_device_identifier(tmp_path):
    environment = {key: value for key, value in os.environ.items() if key not in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")}
    code = "from looc_codec.codec.engine import runtime; runtime()"
    subprocess.run([sys.executable, "-c", code], env=environment | {"HOME": str(tmp_path)}, cwd=Path(__file__).parent.parent, check=True)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
