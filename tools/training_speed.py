"""How fast training steps are on a device, and what they spend their time in.

    python tools/training_speed.py --data DIR --init weights/looc-photo.safetensors --device cuda

Every variant trains for real, from the same weights: one line of JSON each, with images a second, the floating-point operations of the
networks and their share of a peak. `--profile` lists the kernels that take the most time.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from looc_codec.data import PictureStore, load_pictures
from looc_codec.training.codes import untrellised
from looc_codec.training.loop import Trainer, TrainOptions, has_fast_bf16
from looc_codec.training.run import fit_codes, model_of

VARIANTS = {
    "launched": dict(record=False),
    "recorded": dict(record=True),
}
TRIAL_STEPS = 16
"""Steps before the clock starts: recordings of the pass and of the optimizer's kinds of steps, and its first bases."""


def synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def measure(store: PictureStore, init: Path, options: TrainOptions, device: str, steps: int, profile: Path | None) -> dict:
    torch.manual_seed(0)
    model = model_of(init).to(device)
    codes = fit_codes(model, store, device, lambda kind, row: None, book=untrellised(model.config), batches=6, rounds=2)
    trainer = Trainer(model, store, options, device, codes)
    start = time.perf_counter()
    for _ in range(TRIAL_STEPS):
        trainer.step()
    synchronise(device)
    started, first = time.perf_counter(), time.perf_counter() - start
    loss = 0.0
    for _ in range(steps):
        loss = loss + trainer.step()["loss"].mean()
    synchronise(device)
    seconds = (time.perf_counter() - started) / steps
    parts = {}
    for name, part in {"draw": trainer.inputs, "pass": lambda: trainer.passes[False](*trainer.inputs()), "update": lambda: trainer.update(False, trainer.replayed is not None)}.items():
        synchronise(device)
        begin = time.perf_counter()
        for _ in range(10):
            part()
        synchronise(device)
        parts[name] = round((time.perf_counter() - begin) / 10, 5)
    if profile is not None:
        from torch.profiler import ProfilerActivity, profile as profiler

        with profiler(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA] if device != "cpu" else [ProfilerActivity.CPU]) as trace:
            for _ in range(4):
                trainer.step()
            synchronise(device)
        profile.write_text(trace.key_averages().table(sort_by="self_cuda_time_total" if device != "cpu" else "self_cpu_time_total", row_limit=60, max_name_column_width=90))
    row = {"seconds_a_step": round(seconds, 5), "images_per_second": round(options.batch / seconds, 1), "first_seconds": round(first, 1), "loss": round(float(loss) / steps, 4), "parts": parts}
    if device.startswith("cuda"):
        row["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    return row


def operations(store: PictureStore, init: Path, options: TrainOptions, device: str) -> float:
    """Floating-point operations of the networks in one step, forward and backward (two for a multiply-add)."""
    model = model_of(init).to(device)
    trainer = Trainer(model, store, replace(options, record=False), device)
    inputs = trainer.inputs()
    with FlopCounterMode(display=False) as counter:
        trainer.passed(False, *inputs)
    return float(counter.get_total_flops())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of pictures or .tar shards")
    parser.add_argument("--init", type=Path, default=Path("weights/looc-photo.safetensors"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, nargs="+", default=[8])
    parser.add_argument("--crop", type=int, default=192)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--limit", type=int, default=64, help="pictures to load")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--optimizer", default="soap")
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="the device's dense bfloat16 peak (an H100 or H200 SXM by default)")
    parser.add_argument("--profile", type=Path, help="folder for tables of kernels")
    args = parser.parse_args()
    store = PictureStore(load_pictures(args.data, min_side=args.crop, limit=args.limit), args.device)
    for batch in args.batch:
        options = TrainOptions(stage="codes", minutes=None, steps=10**6, batch=batch, crop=args.crop, prior_only_share=0.0, bf16=has_fast_bf16(args.device), optimizer=args.optimizer)
        flops = operations(store, args.init, options, args.device)
        for name in args.variants:
            if args.profile is not None:
                args.profile.mkdir(parents=True, exist_ok=True)
            table = None if args.profile is None else args.profile / f"{name}-{batch}.txt"
            row = {"variant": name, "batch": batch, "crop": args.crop} | measure(store, args.init, replace(options, **VARIANTS[name]), args.device, args.steps, table)
            speed = flops / row["seconds_a_step"] / 1e12
            row |= {"operations_a_picture": flops / batch, "tflops": round(speed, 3), "share_of_peak": round(speed / args.peak_tflops, 4)}
            print(json.dumps(row), flush=True)
            if args.device.startswith("cuda"):
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()


if __name__ == "__main__":
    main()
