"""Measures what a quality means for a model, and puts the table into its weights file.

    python tools/quality_table.py [weights/looc-photo.safetensors ...] [--images ../shared/data/val] [--write]

Every picture is coded at a few levels without effort, and centre crops at a few with each effort; SSIMULACRA 2 says how
they look. Points are kept in --points, so that a second run only measures what is missing; `--again 1,2,3` measures
these efforts anew (after a change of looc_codec/effort.py, say). Between the measured levels the mean score is
interpolated by PCHIP, and what an effort adds to it linearly.

The table: quality q is the level whose mean score is nearest to q, from 30 up to what the model reaches; below, levels
fall on a straight line to level 1 at quality 1, above they rise on one to level 100 at quality 100. `--write` puts it
into the weights file, whose fingerprint and tensors stay as they are; without it the table is only printed, with --json
as JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

LEVELS = (15, 30, 40, 50, 60, 75, 90, 100)
"""Levels of whole pictures without effort."""
CROP = 256
"""Side of the centre crops that efforts are measured on, in pixels."""
EFFORT_PLAN = {1: ((30, 50, 70, 90), None), 2: ((35, 60, 85), 6), 3: ((35, 60, 85), 6)}
"""Levels of each effort, and the number of pictures whose crops are taken, None for all. 2 and 3 are slow."""
FIRST_SCORE, LAST_SCORE = 30, 90
"""Between these a quality is a score."""

Point = dict


class Points:
    """Measured points by picture, crop, weights, effort and level, kept in a JSON file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        stored: list[Point] = json.loads(path.read_text()) if path.exists() else []
        self.by_key = {self.key(**point): point for point in stored}

    @staticmethod
    def key(picture: str, crop: int, weights: str, effort: int, level: int, **figures: float) -> tuple:
        return weights, crop, effort, level, picture

    def add(self, point: Point) -> None:
        self.by_key[self.key(**point)] = point
        self.save()

    def forget(self, weights: str, efforts: list[int]) -> None:
        self.by_key = {
            key: point
            for key, point in self.by_key.items()
            if not (point["weights"] == weights and point["effort"] in efforts)
        }

    def save(self) -> None:
        rows = [json.dumps(self.by_key[key]) for key in sorted(self.by_key)]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text("[\n" + ",\n".join(rows) + "\n]\n")

    def of(self, weights: str, crop: int, effort: int, level: int) -> dict[str, float]:
        """Scores by picture."""
        return {
            key[4]: point["ssimulacra2"]
            for key, point in self.by_key.items()
            if key[:4] == (weights, crop, effort, level)
        }


def digest_of(weights: Path) -> str:
    """What names a model here: its tensors, which the table does not change."""
    import hashlib

    from looc_codec.registry import tensor_bytes

    return hashlib.sha256(tensor_bytes(weights)).hexdigest()[:16]


def plan(pictures: list[Path]) -> list[tuple[Path, int, int, int]]:
    """(picture, crop, effort, level) of all points."""
    wanted = [(picture, 0, 0, level) for level in LEVELS for picture in pictures]
    for effort, (levels, count) in EFFORT_PLAN.items():
        wanted += [
            (picture, CROP, each, level) for level in levels for picture in pictures[:count] for each in (0, effort)
        ]
    return list(dict.fromkeys(wanted))


def measure(points: Points, weights: Path, pictures: list[Path], report: Callable[[str], None]) -> None:
    """Adds the points that are missing."""
    from looc_codec import api, images
    from looc_codec.metrics import bits_per_pixel, ssimulacra2

    model, digest, wanted = api.load_model(weights), digest_of(weights), plan(pictures)
    for number, (picture, crop, effort, level) in enumerate(wanted, 1):
        if points.key(picture.name, crop, digest, effort, level) in points.by_key:
            continue
        rgb = images.read_picture(picture).rgb
        if crop:
            top, left = (max(0, side - crop) // 2 for side in rgb.shape[:2])
            rgb = np.ascontiguousarray(rgb[top : top + crop, left : left + crop])
        data = api.compress(rgb, level=level, effort=effort, model=model)
        score = ssimulacra2(rgb, np.asarray(api.decompress(data, model=model).convert("RGB")))
        points.add({
            "picture": picture.name, "crop": crop, "weights": digest, "effort": effort, "level": level,
            "bytes": len(data), "bpp": round(bits_per_pixel(len(data), rgb.shape[1], rgb.shape[0]), 5),
            "ssimulacra2": round(score, 4),
        })  # fmt: skip
        report(
            f"{weights.name}: {number} of {len(wanted)}, effort {effort}, level {level}, {picture.name}: {score:.1f}"
        )


def scores_of_levels(points: Points, digest: str, names: list[str]) -> list[np.ndarray]:
    """The mean score of each level 1..100, `(100,)`, without effort and with each effort.

    Levels below the lowest measured one have its score.
    """
    from looc_codec.metrics import pchip_values
    from looc_codec.quality import LEVEL_MAX, LEVEL_MIN

    every = np.arange(LEVEL_MIN, LEVEL_MAX + 1, dtype=np.float64)
    means = []
    for level in LEVELS:
        found = points.of(digest, 0, 0, level)
        means.append(statistics.mean(found[name] for name in names))
    plain = pchip_values(
        np.array(LEVELS, np.float64), np.maximum.accumulate(means), np.clip(every, LEVELS[0], LEVELS[-1])
    )
    scores = [plain]
    for effort, (levels, count) in EFFORT_PLAN.items():
        gains = []
        for level in levels:
            before, after = points.of(digest, CROP, 0, level), points.of(digest, CROP, effort, level)
            gains.append(statistics.mean(after[name] - before[name] for name in names[:count]))
        scores.append(np.maximum.accumulate(plain + np.interp(every, levels, gains)))
    return scores


def levels_of_qualities(scores: np.ndarray) -> tuple[int, ...]:
    """The row of a quality table that mean scores `(100,)` of the levels 1..100 give."""
    from looc_codec.quality import LEVEL_MAX, LEVEL_MIN, QUALITY_MAX, QUALITY_MIN

    first = max(FIRST_SCORE, int(np.ceil(scores[0])))
    # A point less than the best, so that the scale goes on.
    last = min(LAST_SCORE, int(np.floor(scores[-1])) - 1)
    if last <= first:
        raise SystemExit(f"the model's scores, {scores[0]:.1f} to {scores[-1]:.1f}, leave no room for a scale")
    middle = {
        quality: float(np.interp(quality, scores, np.arange(LEVEL_MIN, LEVEL_MAX + 1)))
        for quality in range(first, last + 1)
    }
    known = {QUALITY_MIN: float(LEVEL_MIN), **middle, QUALITY_MAX: float(LEVEL_MAX)}
    row = np.interp(np.arange(QUALITY_MIN, QUALITY_MAX + 1), list(known), list(known.values()))
    return tuple(int(level) for level in np.maximum.accumulate(np.rint(row)))


def table_of(scores: list[np.ndarray]):
    """The quality table that mean scores of the levels without effort and with each effort give.

    More effort never takes a higher level: at the ends, where straight lines take over, that would be an accident.
    """
    from looc_codec.quality import QualityScale

    rows = np.minimum.accumulate([levels_of_qualities(row) for row in scores])
    return QualityScale(tuple(tuple(map(int, row)) for row in rows))


def write_table(weights: Path, scale) -> None:
    """Puts the table into the header of a weights file and leaves all else as it is."""
    from looc_codec.files import write_atomically
    from looc_codec.registry import read_entry, tensor_bytes

    before = weights.read_bytes()
    length = int.from_bytes(before[:8], "little")
    header = json.loads(before[8 : 8 + length])
    meta = json.loads(header["__metadata__"]["looc"])
    meta["quality"] = scale.to_json()
    header["__metadata__"]["looc"] = json.dumps(meta, sort_keys=True)
    text = json.dumps(header, separators=(",", ":")).encode()
    # As safetensors does, so that the tensors stay aligned.
    text += b" " * (-len(text) % 8)
    tensors = tensor_bytes(weights)
    with write_atomically(weights, force=True) as file:
        file.write(len(text).to_bytes(8, "little") + text + tensors)
    if read_entry(weights).quality_scale != scale or tensor_bytes(weights) != tensors:
        raise SystemExit(f"{weights} was not written as it should have been; take it from the repository again")


def main() -> None:
    from looc_codec.quality import DEFAULT_QUALITY

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, nargs="*", default=sorted((ROOT / "weights").glob("*.safetensors")))
    parser.add_argument(
        "--images",
        type=Path,
        default=ROOT.parent / "shared/data/val",
        help="folder of .png photographs that no model was trained on",
    )
    parser.add_argument("--points", type=Path, default=ROOT / "docs/results/quality/points.json")
    parser.add_argument(
        "--again", type=lambda text: [int(part) for part in text.split(",")], default=[], metavar="EFFORTS"
    )
    parser.add_argument("--write", action="store_true", help="put the table into the weights files")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    pictures = sorted(arguments.images.glob("*.png"))
    if not pictures:
        parser.error(f"{arguments.images} holds no .png files")
    points = Points(arguments.points)
    for weights in arguments.weights:
        digest = digest_of(weights)
        points.forget(digest, arguments.again)
        measure(points, weights, pictures, lambda words: print(words, file=sys.stderr, flush=True))
        scores = scores_of_levels(points, digest, [picture.name for picture in pictures])
        scale = table_of(scores)
        if arguments.json:
            print(json.dumps({"weights": weights.name, "quality": scale.to_json()}))
        else:
            print(f"{weights.name}: levels of each quality without effort and with efforts 1 to {len(scores) - 1}")
            for quality in (1, 15, 30, 40, 50, 60, 70, DEFAULT_QUALITY, 80, 85, 90, 95, 100):
                print(f"{quality:8}", *(f"{scale.level(quality, effort):4}" for effort in range(len(scores))))
        if arguments.write:
            write_table(weights, scale)


if __name__ == "__main__":
    main()
