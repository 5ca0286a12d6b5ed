"""The paper's model as a model of looc: trained by `looc train`, it codes pictures of any size, and damaged files are
refused."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file
from test_codec import photo
from test_datasets import write_mnist
from typer.testing import CliRunner

from looc_codec import api
from looc_codec.cli import app
from looc_codec.codec.grid import GridDecoder, GridEncoder
from looc_codec.codec.grid_model import GridModel, read_grid_model
from looc_codec.codec.kinds import read_any_model
from looc_codec.codec.model import CodecModel, read_model, write_model
from looc_codec.errors import (
    FormatError,
    ImageError,
    LoocError,
    ModelError,
    OptionError,
)
from looc_codec.format.container import pack, unpack
from looc_codec.quantizers.looc import LooCQuantizer
from looc_codec.registry import read_entry
from looc_codec.reproduction.backbones import VqganBackbone
from looc_codec.reproduction.export import grid_model
from looc_codec.reproduction.paper_model import (
    PaperConfig,
    PaperRequest,
    train_paper_model,
)
from looc_codec.reproduction.rows import parse_row
from looc_codec.reproduction.trainer import TrainSettings
from looc_codec.reproduction.vqvae import VqVae, build_model, to_network

ROOT = Path(__file__).resolve().parent.parent
SIZES = ((32, 32), (1, 1), (47, 33), (200, 131))


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def write_cifar(root: Path, count: int = 64) -> np.ndarray:
    """Smooth little pictures in the layout of CIFAR-10's binary version; returns those of the test split."""
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    pictures = np.stack([photo(32, 32, seed=number) for number in range(count)])
    records = np.concatenate([np.zeros((count, 1), np.uint8), pictures.transpose(0, 3, 1, 2).reshape(count, -1)], 1)
    for number in range(1, 6):
        records[number % 2 :].tofile(folder / f"data_batch_{number}.bin")
    records[:8].tofile(folder / "test_batch.bin")
    return pictures[:8]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with a data set and the weights that `looc train --config looc-vae` makes of it in a few steps."""
    home = tmp_path_factory.mktemp("paper")
    write_cifar(home)
    (home / "tiny.json").write_text(
        '{"base": "looc-vae", "codebook_size": 16, "codevector_dim": 16, "name": "tiny-vae"}'
    )
    done = run(
        "train",
        "--data",
        home,
        "--dataset",
        "cifar10",
        "--config",
        home / "tiny.json",
        "--out",
        home / "run",
        "--steps",
        60,
        "--batch",
        16,
        "--quiet",
    )
    assert done.exit_code == 0, done.output
    return home


@pytest.fixture(scope="module")
def weights(home) -> Path:
    return home / "run" / "weights.safetensors"


@pytest.fixture(scope="module")
def model(weights) -> GridModel:
    return read_grid_model(weights)


# --- from training to pictures ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_pictures_of_any_size_go_through_the_command(home, weights, tmp_path, width, height):
    rgb = photo(width, height, seed=3)
    Image.fromarray(rgb).save(tmp_path / "a.png")
    for words in (
        ("compress", tmp_path / "a.png"),
        ("decompress", tmp_path / "a.looc", "-o", tmp_path / "b.png"),
        ("verify", tmp_path / "a.looc"),
    ):
        done = run(*words, "-m", weights)
        assert done.exit_code == 0, done.output
    with Image.open(tmp_path / "b.png") as image:
        assert image.size == (width, height)
    told = json.loads(run("info", tmp_path / "a.looc", "-m", weights, "--json").stdout)
    assert told["model"] == "tiny-vae version 1" and told["quality"] is None and told["groups"] == [1, 1]
    assert "its model's one quality" in run("info", tmp_path / "a.looc", "-m", weights).stdout


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_codes_are_exact(model, width, height):
    rgb = photo(width, height, seed=4)
    encoder, decoder = api.encoder_for(model, threads=1), api.decoder_for(model, threads=1)
    assert isinstance(encoder, GridEncoder) and isinstance(decoder, GridDecoder)
    written = encoder.encode(rgb)
    file = unpack(api.compress(rgb, model=model))
    read = decoder.decode(file)
    assert np.array_equal(read.codes, written.codes) and read.checksum == written.checksum
    assert written.codes.shape == (8, -(-height // 4), -(-width // 4)) and int(written.codes.max()) < 16


def test_training_brings_pictures_back(model):
    """Sixty steps are enough for a picture like those of the training, with other noise."""
    rgb = photo(32, 32, seed=900)
    restored = np.asarray(api.decompress(api.compress(rgb, model=model), model=model)).astype(float)
    assert np.square(restored - rgb).mean() < 0.3 * np.square(rgb - rgb.mean((0, 1))).mean()


def test_tiles_make_the_picture_of_the_whole(model):
    rgb = photo(90, 70, seed=5)
    whole, tiled = model, read_stored_copy(model, tile=5)
    coding = api.encoder_for(whole, threads=1).encode(rgb)
    other = api.encoder_for(tiled, threads=1).encode(rgb)
    # Sums of floats run in another order in another tile; a code is decided otherwise only where two are as near.
    assert (coding.codes != other.codes).mean() < 1e-3
    pixels = [api.decoder_for(each, threads=1).pixels(coding, (70, 90)).astype(int) for each in (whole, tiled)]
    assert np.abs(pixels[0] - pixels[1]).max() <= 1


def read_stored_copy(model: GridModel, **changes) -> GridModel:
    config = dataclasses.replace(model.config, **changes)
    return GridModel(config, dict(model.core), dict(model.transforms), dict(model.shapes), dict(model.graphs))


def test_the_codec_is_the_network_that_was_trained():
    """Codes and pictures of the exported model are those of the torch modules, for every grid that LooC has."""
    for name, channels in (("looc-16x32", 3), ("looc-16x8b2", 3), ("looc-16x8b2-released", 1), ("cvq-16x64", 3)):
        torch.manual_seed(0)
        trained = build_model(parse_row(name), channels, photo=False).eval()
        rgb = photo(44, 32, seed=1)[..., :channels]
        pictures = to_network(rgb[None])
        with torch.no_grad():
            trained.quantizer.codebook.codevectors.normal_(0, float(trained.backbone.encode(pictures).std()))
            exported = grid_model(trained, "x", [pictures])
            coding = api.encoder_for(exported, threads=1).encode(
                np.broadcast_to(rgb, (32, 44, 3)), grey=channels == 1
            )
            expected = trained.codes(pictures)[0].numpy()
            # Stored weights have 12 bits.
            assert coding.codes.shape == expected.shape and (coding.codes == expected).mean() > 0.98, name
            remade = (
                trained.reconstruct(torch.from_numpy(coding.codes[None].astype(np.int64)))[0]
                .numpy()
                .transpose(1, 2, 0)
            )
        pixels = api.decoder_for(exported, threads=1).pixels(coding, (32, 44))
        assert np.abs(np.clip((remade + 1) * 127.5, 0, 255) - pixels).max() < 1.5, name


def test_the_vqgan_codes_pictures_of_any_size():
    torch.manual_seed(0)
    trained = VqVae(
        VqganBackbone(3, 32, width=32, multipliers=(1, 1), blocks=1), LooCQuantizer(32, 4, 16, beta=2)
    ).eval()
    exported = read_stored_copy(
        grid_model(trained, "x", [to_network(np.stack([photo(32, 32, seed=seed) for seed in range(4)]))]), tile=8
    )
    for width, height in SIZES[1:]:
        rgb = photo(width, height, seed=2)
        data = api.compress(rgb, model=exported)
        assert api.decompress(data, model=exported).size == (width, height)


def test_photographs_are_trained_on_in_crops(home, tmp_path, monkeypatch):
    monkeypatch.setattr("looc_codec.reproduction.export.TABLE_POSITIONS", 2_000)
    (tmp_path / "pictures").mkdir()
    for number in range(3):
        Image.fromarray(photo(90, 70, seed=number)).save(tmp_path / "pictures" / f"{number}.png")
    config, settings = PaperConfig(codebook_size=16, codevector_dim=32), TrainSettings(steps=2, batch=2)
    asked = PaperRequest(data=tmp_path / "pictures", out=tmp_path / "run", config=config, settings=settings, crop=20)
    heard = []
    assert train_paper_model(asked, lambda kind, row: heard.append(kind))
    assert heard[0] == "loading" and heard[-2:] == ["training", "done"]
    assert read_grid_model(tmp_path / "run" / "weights.safetensors").config.image_channels == 3
    with pytest.raises(ModelError, match="exists; give --resume"):
        train_paper_model(asked, lambda kind, row: None)
    with pytest.raises(ModelError, match="--crop 22 is not a multiple of 4"):
        train_paper_model(dataclasses.replace(asked, out=tmp_path / "b", crop=22), lambda kind, row: None)
    with pytest.raises(ImageError, match="choose a smaller --crop"):
        train_paper_model(dataclasses.replace(asked, out=tmp_path / "b", crop=160), lambda kind, row: None)


def test_an_interrupted_run_goes_on(home, tmp_path, monkeypatch):
    from looc_codec.reproduction.trainer import RowTrainer

    step, steps = RowTrainer.step, []

    def interrupted(self):
        if len(steps) == 2:
            raise KeyboardInterrupt
        steps.append(self.step_count)
        return step(self)

    words = ("train", "--data", home, "--dataset", "cifar10", "--out", tmp_path, "--steps", 4, "--quiet")
    monkeypatch.setattr(RowTrainer, "step", interrupted)
    stopped = run(*words, "--config", home / "tiny.json", "--batch", 16)
    assert stopped.exit_code == 130 and not (tmp_path / "weights.safetensors").exists()
    monkeypatch.setattr(RowTrainer, "step", lambda self: (steps.append(self.step_count), step(self))[1])
    assert run(*words, "--resume").exit_code == 0
    assert steps == [0, 1, 2, 3]
    found = read_grid_model(tmp_path / "weights.safetensors").config
    assert (found.codebook_size, found.codevector_dim, found.name) == (16, 16, "tiny-vae")


def test_grey_models_are_for_grey_pictures(tmp_path):
    write_mnist(tmp_path, counts=(40, 4))
    config, settings = PaperConfig(codebook_size=16, codevector_dim=32), TrainSettings(steps=2, batch=8)
    assert train_paper_model(
        PaperRequest(data=tmp_path, out=tmp_path / "run", config=config, settings=settings, dataset="mnist"),
        lambda kind, row: None,
    )
    model = read_grid_model(tmp_path / "run" / "weights.safetensors")
    grey = Image.fromarray(photo(28, 28, seed=1)).convert("L")
    restored = api.decompress(api.compress(grey, model=model), model=model)
    assert restored.mode == "L" and restored.size == (28, 28)
    with pytest.raises(ImageError, match="for grey pictures and this one is in colour"):
        api.compress(photo(28, 28, seed=1), model=model)


def test_grey_pictures_stay_grey(model):
    grey = Image.fromarray(photo(40, 30, seed=1)).convert("L")
    assert api.decompress(api.compress(grey, model=model), model=model).mode == "L"


def test_a_measured_row_leaves_a_weights_file(tmp_path):
    from looc_codec.reproduction.run import RowRequest, pictures_for, run_row

    write_mnist(tmp_path, counts=(32, 16))
    asked = RowRequest(
        parse_row("cvq-16x32"), "mnist", tmp_path, tmp_path / "out", TrainSettings(epochs=1.0, batch=16)
    )
    run_row(asked, pictures_for("mnist", tmp_path, asked.settings))
    found = read_grid_model(asked.folder / "weights.safetensors")
    assert (found.config.planes, found.config.codebook_size, found.config.codevector_dim) == (1, 16, 32)


# --- without torch ------------------------------------------------------------------------------------------------


def test_no_torch_where_files_are_written_and_read(weights, tmp_path):
    code = f"""
import sys
class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "onnx"):
            raise ImportError(name)
sys.meta_path.insert(0, Forbidden())
import numpy as np
from looc_codec import api
rgb = (np.indices((33, 47, 3)).sum(0) * 3).astype(np.uint8)
model = api.load_model({str(weights)!r})
print(api.decompress(api.compress(rgb, model=model), model=model).size)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "LOOC_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False, env=environment
    )
    assert done.returncode == 0 and done.stdout.strip() == "(47, 33)", done.stderr


def test_codes_agree_under_threads_and_instruction_sets(weights):
    from looc_codec.exactness import AVX2_ENVIRONMENT, Setting, Variant, launch

    rgb = photo(61, 45, seed=8)
    folder = weights.parent / "exactness"
    folder.mkdir(exist_ok=True)
    (folder / "a.looc").write_bytes(api.compress(rgb, model=str(weights)))
    settings = (Setting("one", threads=1), Setting("two, as stored", threads=2, optimise=False))
    found = [
        launch(Variant("v", settings, environment), folder, model=str(weights), files=[folder / "a.looc"])
        for environment in ({}, AVX2_ENVIRONMENT)
    ]
    assert len({setting["codes"]["a"] for each in found for setting in each["settings"]}) == 1


# --- what is refused ----------------------------------------------------------------------------------------------


def test_damaged_files_are_refused(model):
    data = api.compress(photo(47, 33, seed=6), model=model)
    for position in range(0, len(data), 7):
        broken = bytearray(data)
        broken[position] ^= 0x10
        with pytest.raises(LoocError):
            api.decompress(bytes(broken), model=model)
    for cut in (0, 10, len(data) - 1):
        with pytest.raises(LoocError):
            api.decompress(data[:cut], model=model)


def test_other_codes_behind_a_sound_checksum_are_refused(model):
    """What the container cannot see: its own checksum is made anew for damaged codes."""
    file = unpack(api.compress(photo(47, 33, seed=6), model=model))
    segment = bytearray(file.segments[0])
    segment[3] ^= 0x40
    for changed, words in (
        ({"segments": (bytes(segment),)}, "match the checksum|cannot be decoded|does not end"),
        ({"code_checksum": file.code_checksum ^ 1}, "match the checksum"),
        ({"segments": (*file.segments, b"")}, "other parts than its model writes"),
        ({"filter": b"\x01\x02"}, "other parts|filter|malformed"),
    ):
        with pytest.raises(FormatError, match=words):
            api.decompress(pack(dataclasses.replace(file, **changed)), model=model)


def test_what_an_index_grid_does_not_have_gets_a_sentence(home, weights, model, tmp_path):
    rgb = photo(47, 33, seed=6)
    for options in ({"quality": 70}, {"target_bpp": 1.0}, {"target_psnr": 30.0}):
        with pytest.raises(OptionError, match="tiny-vae has one quality"):
            api.compress(rgb, model=model, **options)
    with pytest.raises(OptionError, match="tiny-vae has no effort"):
        api.compress(rgb, model=model, effort=1)
    data = api.compress(rgb, model=model)
    with pytest.raises(FormatError, match="no channel groups to choose from"):
        api.decompress(data, model=model, groups=2)
    with pytest.raises(FormatError, match="cannot keep 2 channel groups: the file holds 1"):
        api.truncate(data, groups=2)
    assert api.truncate(data, groups=1) == data
    Image.fromarray(rgb).save(tmp_path / "a.png")
    for words in (("-q", 70), ("--target-size", "1kB"), ("--effort", 1)):
        done = run("compress", tmp_path / "a.png", "-m", weights, *words)
        assert done.exit_code == 1 and "the model tiny-vae has" in done.stderr and done.stderr.count("\n") == 1
    for words in (("--stage", "codes"), ("--init", weights), ("--metric", "ms-ssim"), ("--optimizer", "adamw")):
        done = run("train", "--data", home, "--config", "looc-vae", "--out", tmp_path / "x", *words)
        assert done.exit_code == 2 and f"{words[0]} belong to the codec's own models" in done.stderr


def test_its_point_stands_in_a_report(weights, tmp_path):
    (tmp_path / "pictures").mkdir()
    Image.fromarray(photo(64, 64, seed=6)).save(tmp_path / "pictures" / "a.png")
    words = (
        "report",
        tmp_path / "pictures",
        "--out",
        tmp_path / "out",
        "-m",
        weights,
        "--jobs",
        1,
        "--codecs",
        "looc,looc-effort1,jpeg",
        "--metrics",
        "psnr",
    )
    done = run(*words)
    assert done.exit_code == 0, done.output
    points = json.loads((tmp_path / "out" / "results.json").read_text())["points"]
    assert [point["quality"] for point in points if point["codec"] == "looc"] == [50] and not any(
        point["codec"] == "looc-effort1" for point in points
    )
    own = next(point for point in points if point["codec"] == "looc")
    assert (
        f"| looc, PSNR, dB | {own['bpp']:.3f} | {own['psnr_db']:.2f} |"
        in (tmp_path / "out" / "summary.md").read_text()
    )
    assert (tmp_path / "out" / "report.html").exists()


def test_selftest_takes_it(weights, monkeypatch):
    from looc_codec import selftest

    monkeypatch.setattr(selftest, "PICTURE_SIZES", ((37, 22),))
    monkeypatch.setattr(selftest, "variants", lambda: [selftest.Variant("as installed", (selftest.REFERENCE,))])
    checks = list(selftest.check_exactness(weights))
    assert len(checks) == 2 and all(check.passed for check in checks), checks


def test_small_versions_are_means_of_the_whole(model):
    rgb = photo(50, 37, seed=6)
    data = api.compress(rgb, model=model)
    whole, small = (np.asarray(api.decompress(data, model=model, scale=scale)).astype(float) for scale in (1, 1 / 4))
    assert small.shape == (10, 13, 3)
    assert np.abs(small[:9, :12] - whole[:36, :48].reshape(9, 4, 12, 4, 3).mean((1, 3))).max() <= 0.5


def test_bad_configurations_are_refused(home, tmp_path):
    for values, words in (
        ({"base": "looc-gan"}, "none of looc-vae, looc-vqgan"),
        ({"base": "looc-vae", "layers": 3}, "layers"),
        ({"base": "looc-vae", "beta": "2"}, "beta"),
    ):
        with pytest.raises(ModelError, match=words):
            PaperConfig.from_dict(values)
    request = PaperRequest(
        data=home,
        out=tmp_path / "x",
        config=PaperConfig(codevector_dim=5),
        settings=TrainSettings(steps=1, batch=4),
        dataset="cifar10",
    )
    with pytest.raises(ModelError, match="not a multiple of codevector_dim 5"):
        train_paper_model(request, lambda kind, row: None)
    vqgan = dataclasses.replace(request, config=PaperConfig(base="looc-vqgan"))
    with pytest.raises(ImageError, match="looc-vqgan needs photographs"):
        train_paper_model(vqgan, lambda kind, row: None)


# --- the weights file ---------------------------------------------------------------------------------------------


def test_kinds_of_weights_files_are_told_apart(weights, tiny_model_file, tiny_model, tmp_path):
    assert isinstance(read_any_model(weights), GridModel) and isinstance(read_any_model(tiny_model_file), CodecModel)
    assert read_entry(weights).kind == "index-grid" and read_entry(tiny_model_file).kind == ""
    with pytest.raises(ModelError, match="another kind"):
        read_model(weights)
    with pytest.raises(ModelError, match="another kind"):
        read_grid_model(tiny_model_file)
    rgb = photo(47, 33, seed=6)
    with pytest.raises(ModelError, match="use that model"):
        api.decompress(api.compress(rgb, model=tiny_model), model=str(weights))
    # A weights file of the codec's own kind says nothing of kinds: its bytes are those of before there were two.
    with safe_open(tiny_model_file, framework="np") as file:
        assert "kind" not in json.loads(file.metadata()["looc"])


def test_a_written_model_is_the_model(model, tmp_path):
    write_model(model, tmp_path / "a.safetensors")
    again = read_grid_model(tmp_path / "a.safetensors")
    assert again.fingerprint == model.fingerprint and again.config == model.config


@pytest.mark.parametrize(
    "name",
    [
        "core.codebook.codevectors",
        "core.tables.classes",
        "core.tables.sources",
        "core.tables.rows",
        "core.tables.frequencies",
        "network.encoder.0.weight",
        "graph.analysis",
    ],
)
def test_changed_weights_files_are_refused(weights, tmp_path, name):
    with safe_open(weights, framework="np") as file:
        meta, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}
    whole = tensors[name]
    for change in (whole[:-1], whole.astype(np.float64), np.full_like(whole, 77)):
        if name.startswith("network.") and change.dtype == whole.dtype and change.shape == whole.shape:
            continue  # Networks may improve without breaking a file.
        save_file(tensors | {name: np.ascontiguousarray(change)}, tmp_path / "a.safetensors", metadata=meta)
        with pytest.raises(ModelError):
            read_grid_model(tmp_path / "a.safetensors")


def test_loading_in_the_background_ends_with_the_process(model):
    """A daemon thread in ONNX Runtime aborts the process when the interpreter ends first, as when a picture cannot be
    read."""
    thread = api.encoder_for(model, threads=1).prepare()
    assert not thread.daemon
    thread.join()
