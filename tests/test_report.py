"""`looc report`: honest points, resumed runs, failures that are named, BD-rates, published curves, and the page."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from browser import Browser, needs_browser
from PIL import Image
from scipy.interpolate import PchipInterpolator
from typer.testing import CliRunner

from looc_codec import metrics
from looc_codec.cli import app
from looc_codec.report import (
    codecs,
    distortion,
    equal_bytes,
    front,
    measure,
    published,
    results,
    summary,
)

pytest.importorskip("matplotlib")
pytest.importorskip("pytorch_msssim")


def photo(width: int = 192, height: int = 168, seed: int = 1) -> Image.Image:
    """A smooth picture with edges and texture, large enough for MS-SSIM."""
    generator = np.random.default_rng(seed)
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    edge = 50 * ((x // 24 + y // 32) % 2)
    channels = [90 + 50 * np.sin(x / 17 + k) + 30 * np.cos(y / 11 - k) + edge + generator.normal(0, 4, (height, width)) for k in range(3)]
    return Image.fromarray(np.clip(np.stack(channels, -1), 0, 255).astype(np.uint8))


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for seed in range(2):
        photo(seed=seed).save(folder / f"{seed}.png")
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_model_file):
    """One whole report: the process of a person, and the folder that it wrote."""
    root = tmp_path_factory.mktemp("report")
    folder = root / "pictures <b>"
    folder.mkdir()
    for seed in range(2):
        photo(seed=seed).save(folder / f"<i>{seed}.png")
    # The command must measure the same package as this test, installed or not.
    environment = os.environ | {"PYTHONPATH": str(Path(metrics.__file__).resolve().parents[1])}
    done = subprocess.run(
        [sys.executable, "-m", "looc_codec", "report", folder, "--out", root / "out", "--model", tiny_model_file, "--jobs", "2",
         "--codecs", "looc,jpeg,webp", "--qualities", "20,60,90", "--metrics", "psnr,ms-ssim", "--front", "<i>1.png"],
        capture_output=True, text=True, timeout=300, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done, root / "out"


def test_writes_everything(finished):
    done, out = finished
    names = {path.name for path in out.iterdir()}
    assert names == {
        "results.json", "results.csv", "summary.md", "report.html", "report-files", "front.png",
        "rd-psnr.png", "rd-psnr.svg", "rd-ms-ssim.png", "rd-ms-ssim.svg",
    }  # fmt: skip
    assert "**BD-rate in PSNR**" in done.stdout and "| against JPEG |" in done.stdout
    assert "18 of 18 points" in done.stderr
    stored = results.read_results(out / "results.json")
    assert len(stored.points) == 18 and stored.failures == []
    assert stored.about["looc"] and stored.about["processor"] and stored.about["command"]
    rows = list(csv.DictReader((out / "results.csv").open()))
    assert len(rows) == 18 and float(rows[0]["psnr_db"]) == stored.points[0]["psnr_db"]
    with Image.open(out / "front.png") as image:
        assert image.width > 4 * 160


def test_points_come_from_real_files(finished):
    _, out = finished
    point = next(
        p for p in results.read_results(out / "results.json").points if (p["codec"], p["quality"], p["picture"]) == ("jpeg", 60, "<i>1.png")
    )
    buffer = io.BytesIO()
    original = photo(seed=1)
    original.save(buffer, "JPEG", quality=60, optimize=True, progressive=True)
    assert point["bytes"] == len(buffer.getvalue())
    assert point["bpp"] == pytest.approx(8 * point["bytes"] / (192 * 168), abs=1e-6)
    from skimage.metrics import peak_signal_noise_ratio

    restored = np.asarray(Image.open(buffer))
    assert point["psnr_db"] == pytest.approx(peak_signal_noise_ratio(np.asarray(original), restored, data_range=255), abs=1e-4)
    assert point["ms_ssim_db"] == pytest.approx(metrics.ms_ssim_db(metrics.ms_ssim(np.asarray(original), restored)), abs=1e-4)
    assert point["encode_seconds"] > 0 and point["decode_seconds"] > 0


def test_bd_rates_agree_with_an_independent_computation(finished):
    """From results.csv with scipy only, to 0.1 points."""
    _, out = finished
    curves = {}
    for codec in ("jpeg", "webp"):
        rows = [row for row in csv.DictReader((out / "results.csv").open()) if row["codec"] == codec]
        means = [
            [np.mean([float(row[key]) for row in rows if row["quality"] == quality]) for key in ("psnr_db", "bpp")]
            for quality in ("20", "60", "90")
        ]
        curves[codec] = np.array(sorted(means)).T
    low = max(curve[0][0] for curve in curves.values())
    high = min(curve[0][-1] for curve in curves.values())
    mean = {name: PchipInterpolator(psnr, np.log(bpp)).integrate(low, high) / (high - low) for name, (psnr, bpp) in curves.items()}
    expected = 100 * math.expm1(mean["webp"] - mean["jpeg"])
    row = next(line for line in (out / "summary.md").read_text().splitlines() if line.startswith("| against JPEG |"))
    assert float(re.findall(r"([-+][\d.]+)%", row)[-1]) == pytest.approx(expected, abs=0.1)


def options(folder: Path, out: Path, *more: object) -> list[object]:
    return ["report", folder, "--out", out, "--codecs", "jpeg,webp", "--qualities", "30,80", "--metrics", "psnr", "--jobs", 1, *more]


def measured(result) -> int:
    """How many points a run measured, from its progress lines."""
    totals = re.findall(r"of (\d+) points", result.stderr)
    return int(totals[-1]) if totals else 0


def test_measures_only_what_is_missing(folder, tmp_path, monkeypatch):
    out = tmp_path / "out"
    first = run(*options(folder, out))
    assert first.exit_code == 0, first.output
    assert measured(first) == 8
    before = (out / "results.csv").read_bytes()
    assert measured(run(*options(folder, out))) == 0
    assert (out / "results.csv").read_bytes() == before
    # Another quality, another metric, another picture, another version: only what they touch.
    assert measured(run(*options(folder, out, "--qualities", "jpeg:30,50,80"))) == 2
    photo(seed=9).save(folder / "1.png")
    assert measured(run(*options(folder, out))) == 4
    monkeypatch.setattr(codecs.features, "version_module", lambda name: "0.0.1")
    assert measured(run(*options(folder, out))) == 4
    assert measured(run(*options(folder, out, "--refresh", "jpeg"))) == 4
    assert measured(run(*options(folder, out, "--metrics", "psnr,ms-ssim"))) == 8
    # A look at the first picture costs nothing, and nothing of the others is forgotten.
    limited = run(*options(folder, out, "--metrics", "psnr,ms-ssim", "--limit", "1"))
    assert measured(limited) == 0 and "One picture, real bytes" in limited.stdout
    assert measured(run(*options(folder, out, "--metrics", "psnr,ms-ssim"))) == 0
    (folder / "1.png").unlink()
    assert measured(run(*options(folder, out))) == 0
    assert {point["picture"] for point in results.read_results(out / "results.json").points} == {"0.png"}


def test_an_interrupted_run_keeps_its_points(folder, tmp_path, monkeypatch):
    measure_point, seen = measure.measure_point, []

    def interrupted(task):
        seen.append(task)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return measure_point(task)

    monkeypatch.setattr(measure, "measure_point", interrupted)
    assert run(*options(folder, tmp_path / "out")).exit_code == 130
    monkeypatch.setattr(measure, "measure_point", measure_point)
    assert len(results.read_results(tmp_path / "out" / "results.json").points) == 3
    assert measured(run(*options(folder, tmp_path / "out"))) == 5


def test_a_broken_picture_is_named_and_the_rest_is_done(folder, tmp_path):
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:900])
    result = run(*options(folder, tmp_path / "out"))
    assert result.exit_code == 1
    assert "broken.png" in result.stderr and "Traceback" not in result.stderr
    stored = results.read_results(tmp_path / "out" / "results.json")
    assert len(stored.points) == 8
    assert [failure["picture"] for failure in stored.failures] == ["broken.png"]
    assert str(tmp_path) not in (tmp_path / "out" / "results.json").read_text()
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Not everything could be measured" in page and "broken.png" in page


def test_a_codec_that_fails_on_one_picture_leaves_it_out_of_all_means(folder, tmp_path, monkeypatch):
    encode = codecs.PillowCodec.encode

    def failing(self, rgb, quality):
        if self._options["format"] == "WEBP" and np.array_equal(rgb, np.asarray(photo(seed=1))):
            raise ValueError("too odd")
        return encode(self, rgb, quality)

    codecs.open_codec.cache_clear()
    monkeypatch.setattr(codecs.PillowCodec, "encode", failing)
    result = run(*options(folder, tmp_path / "out"))
    assert result.exit_code == 1
    assert "1.png (webp, quality 30): too odd" in result.stderr
    assert "One picture, real bytes" in result.stdout


def test_small_and_equal_pictures_have_empty_cells(folder, tmp_path):
    photo(40, 30).save(folder / "small.png")
    Image.new("RGB", (180, 180), (128, 128, 128)).save(folder / "flat.png")
    result = run(*options(folder, tmp_path / "out", "--metrics", "psnr,ms-ssim,fid"))
    assert result.exit_code == 0, result.output
    points = results.read_results(tmp_path / "out" / "results.json").points
    small = next(p for p in points if p["picture"] == "small.png")
    assert small["ms_ssim_db"] is None and "160 pixels" in small["empty"]["ms_ssim_db"]
    flat = next(p for p in points if p["picture"] == "flat.png" and p["codec"] == "jpeg")
    assert flat["psnr_db"] is None
    assert "NaN" not in (tmp_path / "out" / "results.json").read_text() and "Infinity" not in (tmp_path / "out" / "results.json").read_text()
    assert "| FID | FID compares" in result.stdout


def test_codecs_that_are_not_installed_are_listed(folder, tmp_path, monkeypatch):
    find_spec = codecs.util.find_spec
    monkeypatch.setattr(codecs.util, "find_spec", lambda name: None if name == "pillow_jxl" else find_spec(name))
    result = run(*options(folder, tmp_path / "out", "--codecs", "jpeg,jxl", "--qualities", "30,80"))
    assert result.exit_code == 0, result.output
    assert "JPEG XL: not installed (pip install pillow-jxl-plugin)" in result.stdout


def test_jpeg_xl_where_it_is_installed():
    pytest.importorskip("pillow_jxl")
    codec, rgb = codecs.open_codec("jxl", ""), np.asarray(photo())
    sizes = [len(codec.encode(rgb, quality)) for quality in (20, 90)]
    assert sizes[0] < sizes[1]
    assert metrics.psnr_db(rgb, codec.decode(codec.encode(rgb, 90))) > 30


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (["--codecs", "gif"], 2, "unknown codec"),
        (["--metrics", "beauty"], 2, "unknown metric"),
        (["--qualities", "high"], 2, "whole numbers"),
        (["--qualities", "0"], 2, "within 1 to 100"),
        (["--against", "everything"], 2, "kodak-published"),
        (["--front-at", "3"], 2, "whole numbers"),
        (["--against", "kodak-published"], 1, "24 Kodak pictures"),
        (["--front", "none.png"], 1, "none.png is not among"),
        (["--codecs", "looc", "--model", "nowhere.safetensors"], 1, "nowhere"),
    ],
)
def test_wrong_requests_are_refused_in_one_sentence(folder, tmp_path, more, code, words):
    result = run(*options(folder, tmp_path / "out", *more))
    assert result.exit_code == code
    assert words in " ".join(re.sub(r"[│╭╮╰╯─]", " ", result.stderr).split()) and "Traceback" not in result.stderr


def test_a_folder_without_pictures_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "nowhere"):
        result = run(*options(tmp_path / folder, tmp_path / "out"))
        assert result.exit_code == 1 and folder in result.stderr


def test_foreign_results_are_not_overwritten(folder, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "results.json").write_text('{"mine": 1}')
    result = run(*options(folder, out))
    assert result.exit_code == 1 and "holds no results of looc report" in result.stderr
    assert (out / "results.json").read_text() == '{"mine": 1}'


def test_a_report_inside_its_folder_does_not_measure_itself(folder):
    assert measured(run(*options(folder, folder / "report"))) == 8
    assert measured(run(*options(folder, folder / "report"))) == 0


# --- parts ------------------------------------------------------------------------------------------------------------


def test_ssimulacra2_is_the_packages_own(tmp_path):
    ssimulacra2 = pytest.importorskip("ssimulacra2")
    original = photo()
    original.save(tmp_path / "a.png")
    original.save(tmp_path / "b.jpg", quality=50)
    Image.open(tmp_path / "b.jpg").save(tmp_path / "b.png")
    value = distortion.METRICS["ssimulacra2"].compute(np.asarray(original), np.asarray(Image.open(tmp_path / "b.png")))
    assert value == pytest.approx(ssimulacra2.compute_ssimulacra2(str(tmp_path / "a.png"), str(tmp_path / "b.png")))
    assert 0 < value < 100


@pytest.mark.skipif(shutil.which("butteraugli_main") is None, reason="butteraugli_main (Debian: libjxl-devtools) is not installed")
def test_butteraugli_grows_with_the_damage():
    original = photo()
    values = []
    for quality in (90, 20):
        buffer = io.BytesIO()
        original.save(buffer, "JPEG", quality=quality)
        values.append(distortion.METRICS["butteraugli"].compute(np.asarray(original), np.asarray(Image.open(buffer))))
    assert 0 < values[0] < values[1]


def test_metrics_without_weights_give_a_reason_not_a_number(monkeypatch):
    monkeypatch.setattr(distortion.util, "find_spec", lambda name: object())
    monkeypatch.setenv("TORCH_HOME", os.devnull)
    for name in ("lpips", "dists"):
        assert "weights" in distortion.METRICS[name].missing()


def test_curves_without_overlap_say_so():
    comparison = summary.compare(metrics.bd_rate_percent, [(0.1, 20.0), (0.2, 22.0)], [(0.1, 30.0), (0.2, 33.0)])
    assert comparison.value is None and comparison.word == "no overlap" and "no PSNR in common" in comparison.reason
    assert summary.compare(metrics.bd_rate_percent, [(0.1, 20.0)], [(0.1, 30.0), (0.2, 33.0)]).word == "too few points"


def test_a_metric_where_less_is_better_gives_a_gain_in_its_own_direction():
    def curve(name, scale):
        return summary.Curve(name, name, tuple(summary.CurvePoint(q, scale * bpp, 1 / bpp) for q, bpp in enumerate((0.1, 0.2, 0.4))))

    shown = summary.Summary(["a", "b"], {"a": "a", "b": "b"}, [], [], ["butteraugli"], {"butteraugli_3norm": {"a": curve("a", 1), "b": curve("b", 0.5)}})
    rate, _ = summary.bd_table(shown, "butteraugli_3norm")["b"]["a"]
    assert rate.value == pytest.approx(-50.0)


def test_published_curves_agree_with_their_stated_bd_rates():
    """The peers' own tables, computed independently: BPG +22.0%, Cheng 2020 +4.0%, DCAE -17.0% against VTM."""
    curves = {curve.name: curve for curve in published.published_curves()["psnr_db"]}
    vtm = curves["vtm"].pairs()
    for name, expected in {"bpg444": 22.0, "cheng2020-anchor": 4.0, "dcae": -17.0}.items():
        assert metrics.bd_rate_percent(vtm, curves[name].pairs()) == pytest.approx(expected, abs=0.1)
    assert all(curve.source and curve.label for curve in curves.values())


def test_published_curves_stand_in_tables_and_plots():
    shown = summary.Summary(["jpeg"], {"jpeg": "JPEG"}, ["a"], [], ["psnr"])
    shown.curves["psnr_db"] = {"jpeg": summary.Curve("jpeg", "JPEG", tuple(summary.CurvePoint(q, 0.3 * q, 26 + 2.0 * q) for q in range(1, 5)))}
    shown.published = published.published_curves()
    text = summary.markdown(shown, results.Results(codecs={"jpeg": {"label": "JPEG", "settings": "s", "identity": "i"}}))
    assert "| against VVC intra (VTM) (published) | +" in text
    from looc_codec.report import plots

    assert b"ELIC 2022 (published)" in plots.render(shown, distortion.METRICS["psnr"], "kodak", "svg")
    assert plots.render(shown, distortion.METRICS["psnr"], "kodak", "svg") == plots.render(shown, distortion.METRICS["psnr"], "kodak", "svg")


def test_others_get_at_least_as_many_bytes_as_the_first():
    rgb = np.asarray(photo())
    first, *others = equal_bytes.versions_at_equal_bytes(rgb, dict.fromkeys(("webp", "jpeg", "avif"), ""), 1.0, metric_names=("psnr",))
    assert first.codec == "webp" and first.data_bytes == pytest.approx(rgb.shape[0] * rgb.shape[1] / 8, rel=0.25)
    for version in others:
        assert first.data_bytes <= version.data_bytes <= 1.25 * first.data_bytes
        assert version.values["psnr_db"] == version.psnr_db == pytest.approx(metrics.psnr_db(rgb, version.rgb))


class Scale:
    """A codec whose files of quality q have 1000 + 10 q bytes, and that counts them."""

    def __init__(self) -> None:
        self.made: list[int] = []

    def encode(self, rgb: np.ndarray, quality: int) -> bytes:
        self.made.append(quality)
        return bytes(1000 + 10 * quality)


@pytest.mark.parametrize("known", [{}, {1: 1010, 50: 1500, 100: 2000}, {60: 1600}, {20: 1200}])
@pytest.mark.parametrize(("wanted", "quality"), [(1, 1), (1010, 1), (1011, 2), (1404, 41), (1500, 50), (1995, 100), (9999, 100)])
def test_the_lowest_quality_with_enough_bytes_is_found_in_few_encodings(monkeypatch, known, wanted, quality):
    codec = Scale()
    monkeypatch.setattr(equal_bytes, "open_codec", lambda name, model: codec)
    sizes = equal_bytes._Sizes("jpeg", "", np.zeros((1, 1, 3), np.uint8), known)
    assert sizes.covering(wanted) == quality
    assert len(codec.made) == len(set(codec.made)) <= (4 if len(known) == 3 else 8)


def test_rounds_of_one_and_the_same_file_are_shown_once(tmp_path):
    photo().save(tmp_path / "a.png")
    shown = summary.Summary(["webp", "jpeg"], {"webp": "WebP", "jpeg": "JPEG"}, ["a.png"], [], ["psnr"])
    with measure.Workers(1) as workers:
        found, = equal_bytes.contests(shown, {"a.png": str(tmp_path / "a.png")}, {"webp": "", "jpeg": ""}, (0.5, 10.0, 20.0), workers=workers)
    assert [one.bpp for one in found.rounds] == [0.5, 10.0] and found.first_round.bpp == 0.5
    assert found.rounds[1].versions[0].quality == 100

def test_crops_are_where_the_difference_is():
    rgb = np.asarray(photo(300, 300))
    errors = equal_bytes._block_errors(rgb, np.where(np.arange(300)[:, None, None] >= 200, 255 - rgb, rgb))
    assert errors[0].max() == 0 and errors[-1].min() > 0


def test_front_picture_puts_looc_last():
    rgb = np.asarray(photo())
    versions = [equal_bytes.Version(name, name, 1, 1234, 30.0, rgb) for name in ("looc", "avif", "jpeg")]
    image = front.front_picture(rgb, versions, side=100, left=500, top=-3)
    assert image.width == 4 * 100 + 3 * 8
    assert np.array_equal(np.asarray(image)[:100, -100:], rgb[:100, -100:])


def test_help_loads_nothing_heavy():
    code = (
        "import sys; sys.argv = ['looc', 'report', '--help']\nfrom looc_codec.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\nprint(sorted({'torch', 'numpy', 'matplotlib', 'jinja2', 'PIL'} & set(sys.modules)))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(metrics.__file__).resolve().parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60, env=environment)
    assert done.stdout.splitlines()[-1] == "[]"


def curves_summary(rates: dict[str, dict[str, float]]) -> summary.Summary:
    """Codecs whose curves in every metric are one curve at other rates: `rates[codec][metric]` times its bits."""
    keys = {"psnr": "psnr_db", "ms-ssim": "ms_ssim_db"}
    found = summary.Summary(list(rates), {name: codecs.info_of(name).label for name in rates}, ["a"], [], list(next(iter(rates.values()))))
    for metric in found.metric_names:
        found.curves[keys[metric]] = {
            name: summary.Curve(name, found.labels[name], tuple(summary.CurvePoint(q, by[metric] * bpp, 30 + 3 * q) for q, bpp in enumerate((0.1, 0.2, 0.4))))
            for name, by in rates.items()
        }
    return found


def test_verdicts_name_the_better_and_the_worse_metrics():
    shown = curves_summary({
        "looc": {"psnr": 1.0, "ms-ssim": 1.0}, "looc-effort3": {"psnr": 0.9, "ms-ssim": 0.9},
        "jpeg": {"psnr": 2.0, "ms-ssim": 2.5}, "avif": {"psnr": 1.25, "ms-ssim": 0.8}, "webp": {"psnr": 1.0, "ms-ssim": 2.0},
    })  # fmt: skip
    assert summary.verdicts(shown) == [
        "Against JPEG, looc needs 50% fewer bits at equal PSNR and 60% at equal MS-SSIM.",
        "Against AVIF, looc needs 20% fewer bits at equal PSNR, but 25% more bits at equal MS-SSIM.",
        "Against WebP, looc needs 50% fewer bits at equal MS-SSIM, and as many bits at equal PSNR.",
    ]
    table = summary.verdict_table(shown)
    assert len(table.rows) == 3 + 1 + 3
    assert table.rows[1] == ["looc against AVIF", "-20.0%", "+25.0%"]
    assert table.rows[3] == ["looc, effort 3 against looc", "-10.0%", "-10.0%"]
    assert summary.bd_table(shown, "psnr_db")["looc-effort3"]["looc"][0].value == pytest.approx(-10.0)


def test_several_models_are_named_with_their_labels():
    models = codecs.parse_models("looc:photo,looc-effort1:somewhere/mine.safetensors,AVIF", "other")
    assert models == {"looc:photo": "photo", "looc-effort1:mine.safetensors": "somewhere/mine.safetensors", "avif": "other"}
    assert [codecs.info_of(name).label for name in models] == ["looc photo", "looc mine, effort 1", "AVIF"]
    assert codecs.parse_qualities(["10", "looc:photo:20,30"], list(models))["looc:photo"] == [20, 30]
    for text, words in {"avif:photo": "does not name a model", "looc:": "does not name a model", "looc:a/m,looc:b/m": "two models"}.items():
        with pytest.raises(codecs.CodecError, match=words):
            codecs.parse_models(text, "photo")
    shown = curves_summary({"looc:photo": {"psnr": 1.0}, "looc:photo-psnr": {"psnr": 1.5}, "jpeg": {"psnr": 4.0}, "avif": {"psnr": 2.0}})
    assert summary.verdicts(shown) == [
        "Against AVIF, looc photo needs 50% fewer bits at equal PSNR.", "Against AVIF, looc photo-psnr needs 25% fewer bits at equal PSNR.",
    ]  # fmt: skip


# --- the page ---------------------------------------------------------------------------------------------------------


def page_data(html: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html).group(1))


def test_page_needs_no_network_and_escapes_names(finished):
    _, out = finished
    html = (out / "report.html").read_text()
    assert "default-src 'none'" in html and len(html) < 3_000_000
    assert not re.search(r"""<(?:script|link|img|iframe)[^>]*(?:src|href)=["']""", html)
    assert "<h3><i>" not in html and "&lt;i&gt;" in html and "<title>pictures &lt;b&gt;" in html
    data = page_data(html)
    names = {path.name for path in (out / "report-files").iterdir()}
    assert {Path(address).name for address in data["pictures"].values()} == names and "1-original.webp" in names
    assert all(set(version["values"]) == {"psnr_db", "ms_ssim_db"} for round_ in data["contests"][0]["rounds"] for version in round_["versions"])


def test_pictures_of_the_page_are_exact(finished):
    _, out = finished
    with Image.open(out / "report-files" / "1-original.webp") as image:
        shown = np.asarray(image)
    assert any(np.array_equal(shown, np.asarray(photo(seed=seed))) for seed in range(2))


def test_one_file_takes_the_folder_of_pictures_away(folder, tmp_path):
    out = tmp_path / "out"
    assert run(*options(folder, out, "--compare-bpp", "1")).exit_code == 0
    assert (out / "report-files" / "1-original.webp").exists()
    (out / "report-files" / "mine.txt").write_text("mine")
    assert run(*options(folder, out, "--compare-bpp", "1", "--single-file")).exit_code == 0
    assert [path.name for path in (out / "report-files").iterdir()] == ["mine.txt"]
    assert all(address.startswith("data:image/webp;base64,") for address in page_data((out / "report.html").read_text())["pictures"].values())


def test_points_of_a_plot_tell_codec_quality_rate_and_value():
    from looc_codec.report import plots

    shown = curves_summary({"looc": {"psnr": 1.0}, "jpeg": {"psnr": 2.0}})
    svg = plots.page_plot(shown, distortion.METRICS["psnr"], size_inches=(4, 4))
    assert "<title>JPEG, quality 1: 0.400 bpp, PSNR 33.00 dB</title>" in svg
    assert "var(--curve-1)" in svg and "#000000" not in svg
    other = plots.page_plot(shown, distortion.METRICS["psnr"], size_inches=(5, 4))
    assert not set(re.findall(r' id="([^"]+)"', svg)) & set(re.findall(r' id="([^"]+)"', other))


@needs_browser
def test_page_works_from_disk_in_a_browser(finished):
    """Rate, metric, flicker, difference, zoom, curves and theme, without a word on the console or a request elsewhere."""
    _, out = finished
    with Browser(390, 844) as browser:
        browser.open((out / "report.html").as_uri())
        label = "document.querySelector('.stage canvas').getAttribute('aria-label')"
        assert "PSNR" in browser.wait_for(f"({label} ?? '').includes('left of the divider') && {label}")
        rates = browser.run("return [...document.querySelectorAll('[data-choice=rate] button')].map(button => button.value)")
        before = browser.run("return document.querySelector('[data-words=right]').textContent")
        browser.run("const all = document.querySelectorAll('[data-choice=rate] button'); all[all.length - 1].click()")
        assert len(rates) > 1
        browser.wait_for("document.querySelector('[data-words=right]').textContent !== arguments[0]", before)
        browser.run("document.querySelector('[data-choice=metric]').querySelectorAll('button')[1].click()")
        browser.wait_for(f"{label}.includes('MS-SSIM')")
        assert browser.run("return document.querySelector('[data-words=left]').textContent").count("MS-SSIM") == 1
        assert browser.run("return [...document.querySelectorAll('.plot')].map(plot => plot.hidden)") == [True, False]
        browser.run("document.querySelector('.stage canvas').focus()")
        browser.press("f")
        browser.wait_for(f"{label}.startsWith('WebP')")
        browser.press("f")
        browser.wait_for(f"{label}.startsWith('looc')")
        browser.press("d")
        browser.wait_for(f"{label}.startsWith('Difference of WebP')")
        browser.press("1", "+")
        browser.wait_for("document.querySelector('[data-zoom=one]').textContent === '150%'")
        browser.run("const side = document.querySelector('select[data-side=left]'); side.selectedIndex = 0; side.dispatchEvent(new Event('change'))")
        browser.wait_for(f"{label}.startsWith('Difference of original')")
        drawn = "[...document.querySelectorAll('.plot:not([hidden]) svg .point.curve-1')].filter(point => point.getBoundingClientRect().width).length"
        assert browser.run(f"return {drawn}") > 0
        told = browser.run(
            "const plot = document.querySelector('.plot:not([hidden])');"
            "const box = [...plot.querySelectorAll('svg .point')].map(point => point.getBoundingClientRect()).find(box => box.width);"
            "plot.querySelector('.drawing').dispatchEvent(new PointerEvent('pointermove', {clientX: box.left + 2, clientY: box.top + 2}));"
            "return plot.querySelector('.tip').textContent"
        )
        assert re.fullmatch(r"looc, quality \d+: [\d.]+ bpp, MS-SSIM [\d.]+ dB", told)
        browser.run("document.querySelector('.plot:not([hidden]) .legend button[value=\"1\"]').click()")
        assert browser.run(f"return {drawn}") == 0
        paper = "getComputedStyle(document.body).backgroundColor"
        light = browser.run(f"return {paper}")
        browser.run("document.getElementById('theme').click()")
        assert browser.run(f"return {paper}") != light
        assert browser.run("return [...document.images].every(image => image.naturalWidth || image.loading === 'lazy')")
        assert browser.run("return document.documentElement.scrollWidth - innerWidth") <= 0
        assert browser.console() == []
        assert all(address.startswith(("file:", "data:")) for address in browser.requests())


def test_efforts_and_models_are_codecs(folder, tmp_path, tiny_model_file):
    names = f"looc:{tiny_model_file},looc-effort1:{tiny_model_file},jpeg"
    done = run("report", folder, "--out", tmp_path / "out", "--jobs", 1, "--codecs", names, "--qualities", "20,60,90", "--metrics", "psnr", "--limit", 1, "--compare-bpp", 2)  # fmt: skip
    assert done.exit_code == 0, done.output
    stored = (tmp_path / "out" / "results.json").read_text()
    assert str(tiny_model_file) not in stored
    file = Path(tiny_model_file).name
    first, second = f"looc:{file}", f"looc-effort1:{file}"
    sizes = {name: [point["bytes"] for point in json.loads(stored)["points"] if point["codec"] == name] for name in (first, second)}
    assert len(sizes[first]) == len(sizes[second]) == 3 and sizes[first] != sizes[second]
    label = codecs.info_of(first).label
    assert f"| against {label}, effort 1 |" in (tmp_path / "out" / "summary.md").read_text()
    contest, = page_data((tmp_path / "out" / "report.html").read_text())["contests"]
    assert [version["label"] for version in contest["rounds"][0]["versions"]] == [label, f"{label}, effort 1", "JPEG"]
