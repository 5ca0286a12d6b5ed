"""`looc train` under torchrun: two processes on the CPU train one model."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import tiny_config
from PIL import Image
from test_codec import photo

from looc_codec.codec.model import read_model
from looc_codec.training.parallel import Processes

WORKER = """
import sys, torch, torch.distributed as distributed
from looc_codec.training.parallel import end_process, join, leave
processes, device = join("cpu")
rank = processes.rank
first, second = torch.full((2, 3), float(rank)), torch.full((4,), 10.0 * (rank + 1))
processes.average([first, second])
shared = torch.full((3,), float(rank + 5))
processes.share([shared])
state = processes.share_state({"a": torch.tensor([rank + 7])})
agreed = processes.agree(2.0 + rank, device)
assert torch.all(first == 0.5) and torch.all(second == 15.0), (first, second)
assert torch.all(shared == 5.0) and int(state["a"]) == 7 and agreed == 2.5
leave()
open(f"{sys.argv[1]}/rank {rank} agrees", "w").close()
end_process()
"""


def torchrun(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"})


def test_a_single_process_sends_nothing():
    tensor = torch.tensor([1.0])
    Processes().average([tensor])
    Processes().share([tensor])
    assert tensor == 1 and Processes().agree(3.0, "cpu") == 3.0 and Processes().first


@pytest.mark.slow
def test_two_processes_average_share_and_agree(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    result = torchrun(str(script), str(tmp_path))
    assert result.returncode == 0, result.stderr
    # Files, because what two processes print may interleave within a line.
    assert {path.name for path in tmp_path.glob("rank*")} == {"rank 0 agrees", "rank 1 agrees"}


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["continuous", "codes"])
def test_two_processes_train_one_model(tmp_path, stage):
    pictures, out = tmp_path / "pictures", tmp_path / "run"
    pictures.mkdir()
    for index in range(3):
        Image.fromarray(photo(96, 80, seed=index)).save(pictures / f"{index}.png")
    config = tmp_path / "tiny.json"
    config.write_text(json.dumps(tiny_config().to_dict()))
    result = torchrun("-m", "looc_codec", "train", "--data", str(pictures), "--validation", str(pictures), "--out", str(out), "--config", str(config),
                      "--steps", "50", "--crop", "32", "--batch", "2", "--stage", stage, "--prior-only", "0.2", "--json")
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    trained = [line for line in lines if line["kind"] == "training"]
    # Each step sees two crops in each of two processes, and only the first process speaks.
    assert len(trained) == 1 and trained[0]["pictures"] == 50 * 2 * 2
    assert np.isfinite(trained[0]["loss"])
    assert read_model(out / "weights.safetensors").config == tiny_config()
    assert {path.name for path in out.iterdir()} >= {"checkpoint.safetensors", "log.csv", "validation.csv", "samples.png"}
