"""The papers' tables in small: networks, rates, protocols, training that resumes, rows that are kept, tables, plots."""

from __future__ import annotations

import csv
import dataclasses
import json
import sys
import types

import numpy as np
import pytest
import torch
from test_datasets import write_mnist

from looc_codec.datasets import PhotoSet
from looc_codec.errors import LoocError, ModelError
from looc_codec.format.index_grid import TABLE_BITS, GridCoder
from looc_codec.quantizers.looc import LooCQuantizer
from looc_codec.reproduction import judges, plots, tables
from looc_codec.reproduction import run as run_module
from looc_codec.reproduction.backbones import PatchDiscriminator, SmallBackbone, VqganBackbone
from looc_codec.reproduction.evaluation import QualityMeter, errors, gaussian_ssim, psnr_of, rounded, through_jpeg, truncated, uniform_ssim
from looc_codec.reproduction.rates import StaticCoder, classes_of, fitted_tables, integer_tables, measured, uniform_bits
from looc_codec.reproduction.rows import PAPER_NAMES, TABLES, RowError, build_quantizer, datasets_of, paper_rows, parse_row, printed_row, rows_of
from looc_codec.reproduction.run import ReproductionError, RowRequest, pictures_for, run_row, run_rows, settings_for
from looc_codec.reproduction.batches import ArrayPictures, EpochBatches, FilePictures, pixel_variance
from looc_codec.reproduction.trainer import RowTrainer, TrainSettings, hinge_discriminator_loss, readable
from looc_codec.reproduction.vqvae import VqVae, build_model, plane_codevectors, to_network

SMALL_ROWS = ("vq-16x128", "hvq-16x128", "cvq-16x128", "sq-16x128", "rq-16x128x2", "pq-8x32x4", "looc-16x32", "looc-16x32b2", "looc-16x32-gradient")


def parameters(module) -> int:
    return sum(value.numel() for value in module.parameters())


# --- networks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "latent", "expected"), [(1, 128, 740_609), (3, 128, 744_707), (1, 64, 658_625), (3, 64, 662_723)])
def test_small_backbone_has_the_released_number_of_parameters(channels, latent, expected):
    assert parameters(SmallBackbone(channels, latent)) == expected


@pytest.mark.parametrize(("side", "grid"), [(28, 7), (32, 8)])
def test_small_backbone_shapes(side, grid):
    backbone = SmallBackbone(3)
    latent = backbone.encode(torch.zeros(2, 3, side, side))
    assert latent.shape == (2, 128, grid, grid)
    assert backbone.decode(latent).shape == (2, 3, side, side)


def test_vqgan_has_the_published_number_of_parameters():
    with torch.device("meta"):
        backbone = VqganBackbone()
    found = [parameters(part) for part in (backbone.encoder, backbone.decoder)]
    assert found == [29_298_176, 42_449_795]
    assert parameters(backbone.to_latent) + parameters(backbone.from_latent) == 131_584
    assert backbone.positions_per_side == 16


def small_vqgan() -> VqVae:
    return VqVae(VqganBackbone(3, 32, width=32, multipliers=(1, 1), blocks=1), LooCQuantizer(32, 4, 16))


def noise_pictures(count=8, side=16, channels=3) -> ArrayPictures:
    return ArrayPictures("noise", np.random.default_rng(0).integers(0, 256, (count, side, side, channels), np.uint8))


def test_vqgan_trains_with_a_discriminator(tmp_path):
    settings = TrainSettings(epochs=3, batch=1, perceptual=False, adversarial_start=1)
    torch.manual_seed(0)
    pictures = noise_pictures(count=1, side=32)
    trainer = RowTrainer(small_vqgan(), EpochBatches(pictures, 1, 42, "cpu"), settings, photo=True)
    before = [value.detach().clone() for value in trainer.discriminator.parameters()]
    trainer.step()
    assert all(torch.equal(old, new) for old, new in zip(before, trainer.discriminator.parameters(), strict=True)), "it starts at step 1"
    trainer.run(tmp_path / "checkpoint.safetensors")
    assert trainer.step_count == 3
    assert any(not torch.equal(old, new) for old, new in zip(before, trainer.discriminator.parameters(), strict=True))
    again = RowTrainer(small_vqgan(), trainer.batches, settings, photo=True)
    again.resume(tmp_path / "checkpoint.safetensors")
    assert all(torch.equal(one, two) for one, two in zip(trainer.discriminator.state_dict().values(), again.discriminator.state_dict().values(), strict=True))


def test_hinge_loss():
    assert hinge_discriminator_loss(torch.tensor([2.0]), torch.tensor([-2.0])) == 0
    assert hinge_discriminator_loss(torch.tensor([0.0]), torch.tensor([0.5])) == 0.5 * (1 + 1.5)


def test_discriminator_is_the_patchgan_of_three_layers():
    assert parameters(PatchDiscriminator()) == 2_765_633
    assert PatchDiscriminator()(torch.zeros(1, 3, 256, 256)).shape == (1, 1, 30, 30)


def test_perceptual_loss_without_weights_is_refused(monkeypatch):
    monkeypatch.setattr(judges, "lpips_missing", lambda: "the package lpips is not installed")
    judges.lpips_network.cache_clear()
    with pytest.raises(ModelError, match="lpips is not installed; --no-perceptual"):
        RowTrainer(small_vqgan(), EpochBatches(noise_pictures(), 4, 42, "cpu"), TrainSettings(epochs=1, batch=4), photo=True)


class _Distance(torch.nn.Module):
    """Stands for the package's network: what is tested is on which device it is."""

    def __init__(self, **options):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, one, two):
        return ((one - two) ** 2).mean((1, 2, 3), keepdim=True) * self.weight


def test_lpips_on_a_device_leaves_that_of_the_cpu_where_it_is(monkeypatch):
    monkeypatch.setattr(judges, "lpips_missing", lambda: None)
    monkeypatch.setitem(sys.modules, "lpips", types.SimpleNamespace(LPIPS=_Distance))
    judges.lpips_network.cache_clear()
    batches = EpochBatches(noise_pictures(), 4, 42, "meta")
    trainer = RowTrainer(small_vqgan(), batches, TrainSettings(epochs=1, batch=4, adversarial=False), "meta", photo=True)
    assert next(trainer.judge.parameters()).device.type == "meta"
    pictures = noise_pictures(2).pictures
    assert judges.lpips_of(pictures, pictures[::-1]).shape == (2,)
    judges.lpips_network.cache_clear()


def test_titles_say_what_limits_leave(tmp_path):
    photos = PhotoSet("ffhq train, 9 pictures", [tmp_path / f"{number}.png" for number in range(9)])
    assert FilePictures(photos, limit=4).title == "ffhq train, 9 pictures, the first 4"
    assert FilePictures(photos, limit=9).title == FilePictures(photos).title == "ffhq train, 9 pictures"


def test_reasons_name_the_missing_weights(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(judges.util, "find_spec", lambda name: object())
    assert "VGG-16 are not in torch's cache" in judges.lpips_missing()
    assert "Inception network are not in torch's cache" in judges.inception_missing()
    monkeypatch.setattr(judges.util, "find_spec", lambda name: None)
    assert "pip install lpips" in judges.lpips_missing()


# --- rows -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL_ROWS)
def test_rows_decode_from_their_codes(name):
    torch.manual_seed(0)
    model = build_model(parse_row(name), 1, photo=False).eval()
    pictures = to_network(np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1), np.uint8))
    with torch.inference_mode():
        direct, output = model(pictures)
        codes = model.codes(pictures)
        assert torch.equal(codes, output.codes)
        assert torch.equal(model.reconstruct(codes), direct)


def test_names_of_rows():
    assert parse_row("looc-256x4b2-gradient").label == "LooC-VAE 256 × 4, beta 2, gradients only"
    assert parse_row("pq-256x4x32").label == "PQ 256 × 4 × 32 books"
    for wrong in ("", "looc-256", "vq-1024x128x4", "rq-1024x128", "vq-8x4b2", "cvq-8x4-gradient", "looc-8x4b5", "looc-1x4", "looc-8x4 "):
        with pytest.raises(RowError, match="unknown row"):
            parse_row(wrong)
    with pytest.raises(RowError, match="does not fit"):
        build_quantizer(parse_row("vq-16x64"), 128)
    assert parse_row("cvq-1024x128-unique-offline").label == "CVQ-VAE 1024 × 128, unique anchors, offline"
    for wrong in ("vq-8x4-unique", "looc-8x4-nothing", "cvq-8x4-l2-l2", "cvq-8x0", "cvq-8x4-"):
        with pytest.raises(RowError, match="unknown row"):
            parse_row(wrong)


def test_pq_is_known_as_the_paper_writes_it():
    """K x d* without the number of books: as many as the network's channels have room for."""
    assert parse_row("pq-256x4") == parse_row("pq-256x4x32")
    assert parse_row("pq-16x4", 256).name == "pq-16x4x64"
    with pytest.raises(RowError, match="does not fit a latent of 128 channels"):
        parse_row("pq-256x3")
    with pytest.raises(RowError, match="does not fit a latent of 128 channels"):
        parse_row("pq-256x4x31")


def test_rows_of_another_width_have_a_latent_of_that_width():
    """As CVQ's poster varies the dimension of codevectors."""
    model = build_model(parse_row("cvq-1024x64"), 3, photo=False)
    assert model.quantizer.channels == 64 and parameters(model.backbone) == 662_723
    codes = model.eval().codes(torch.zeros(1, 3, 32, 32))
    assert codes.shape == (1, 1, 8, 8) and model.reconstruct(codes).shape == (1, 3, 32, 32)
    with torch.device("meta"):
        wide = build_model(parse_row("vq-1024x64"), 3, photo=True)
    assert parameters(wide.backbone.to_latent) + parameters(wide.backbone.from_latent) == (256 + 1) * 64 + (64 + 1) * 256


@pytest.mark.parametrize(("option", "expected"), [("unique", {"anchor": "unique"}), ("offline", {"online": False}), ("l2", {"match": "l2"}), ("gradient", {"update": "gradient"})])
def test_options_of_rows_reach_the_codebook(option, expected):
    book = build_quantizer(parse_row(f"looc-16x4-{option}"), 128).codebook
    assert {name: getattr(book, name) for name in expected} == expected
    assert build_quantizer(parse_row("looc-16x4b2-released"), 128).interp == "released"
    assert build_quantizer(parse_row("vq-16x128-ema"), 128).codebook.update == "ema"


@pytest.mark.parametrize(("table", "dataset", "expected"), [
    ("2", "ffhq", ["looc-256x4b2", "looc-1024x4b2"]), ("9", "imagenet", ["looc-256x4b2", "looc-1024x4b2"]), ("10", "ffhq", ["looc-1024x4b2"]),
    ("7", "ffhq", ["looc-256x4b2-gradient", "looc-1024x4b2-gradient"]), ("12", "celeba", ["looc-256x4b2", "looc-1024x4b2"]), ("1", "mnist", ["looc-32x4", "looc-256x4"]),
    ("6", "ffhq", ["looc-1024x256b2", "looc-256x4", "looc-256x4b2", "looc-256x4b3", "looc-256x4b4"]),
])  # fmt: skip
def test_looc_rows_have_the_beta_of_the_printed_figures(table, dataset, expected):
    rows = [row for row in rows_of(table, dataset) if row.method == "looc"]
    assert [row.name for row in rows] == expected
    assert all(printed_row(table, dataset, row) is not None for row in rows)
    if table == "2":
        assert printed_row("2", "ffhq", rows[0]).figures["PSNR"] == printed_row("6", "ffhq", rows[0]).figures["PSNR"] == 27.73
        assert printed_row("2", "ffhq", parse_row("looc-256x4", 256)) is None, "print has no figure of beta 1 there"


def test_table_12_as_its_text_reads():
    found = {row.name: printed_row("12", "celeba", row).figures["rFID"] for row in rows_of("12", "celeba")}
    assert found == {"looc-256x4b2": 5.66, "looc-1024x4b2": 3.86}


def test_every_row_of_every_table_can_be_built_and_is_printed():
    for table in TABLES:
        for dataset in datasets_of(table):
            for row in rows_of(table, dataset):
                channels = 128 if dataset in ("mnist", "fashion-mnist", "cifar10") else 256
                assert build_quantizer(row, channels).channels == channels
                assert printed_row(table, dataset, row) is not None


def test_printed_figures():
    rows = {row.name: printed_row("5", "cifar10", row) for row in rows_of("5", "cifar10")}
    assert rows["looc-1024x4"].figures["PSNR"] == 36.38
    assert rows["cvq-1024x128"].figures["l1"] == 0.0448
    assert printed_row("2", "ffhq", parse_row("vq-1024x256")).figures["usage"] == 0.42
    assert printed_row("6", "ffhq", parse_row("looc-256x4b3")).figures["rFID"] == 1.89
    assert printed_row("5", "cifar10", parse_row("looc-8x128")) is None
    assert {row.dataset for row in paper_rows("1")} <= set(PAPER_NAMES.values())
    with pytest.raises(RowError, match="table 11 is about generation, which looc does not train yet.*46.78.*15.17.*17.52"):
        paper_rows("11")
    with pytest.raises(RowError, match="unknown table"):
        paper_rows("13")


# --- rates ----------------------------------------------------------------------------------------------------------


def correlated_codes(count: int, planes: int, size: int, seed: int) -> np.ndarray:
    """Codes whose neighbours and earlier planes tell something about them."""
    rng = np.random.default_rng(seed)
    smooth = np.cumsum(rng.normal(size=(count, planes, 6, 5)), axis=3) + np.arange(planes)[None, :, None, None]
    smooth[:, 1:] += 0.7 * smooth[:, :-1]
    return np.clip(np.round(smooth * 3 + size / 2), 0, size - 1).astype(np.int64)


@pytest.mark.parametrize(("planes", "size"), [(1, 40), (4, 40), (3, 2), (2, 300)])
def test_coded_bytes_decode_to_the_codes(planes, size):
    train, test = correlated_codes(60, planes, size, 1), correlated_codes(20, planes, size, 2)
    codevectors = np.tile(np.arange(size, dtype=float)[None, :, None], (planes, 1, 2))
    for coder in (StaticCoder(train, size), GridCoder(fitted_tables(train, codevectors))):
        data = coder.encode(test)
        assert np.array_equal(coder.decode(data, test.shape), test)
        rate = measured(coder, test)
        assert rate.stream_bytes == len(data)
        assert rate.table_bytes == 2 * coder.bank.frequencies.size


def test_conditional_tables_beat_static_ones_which_beat_uniform_bits():
    train, test = correlated_codes(600, 3, 64, 1), correlated_codes(200, 3, 64, 2)
    codevectors = np.tile(np.arange(64, dtype=float)[None, :, None], (3, 1, 1))
    static = 8 * measured(StaticCoder(train, 64), test).stream_bytes
    conditional = 8 * measured(GridCoder(fitted_tables(train, codevectors)), test).stream_bytes
    assert conditional < 0.95 * static
    assert static < uniform_bits(test.shape, (64,))


def test_static_rate_is_the_cross_entropy():
    train, test = correlated_codes(400, 2, 32, 1), correlated_codes(100, 2, 32, 2)
    coder = StaticCoder(train, 32)
    share = (coder.counts + 1) / (coder.counts + 1).sum(1, keepdims=True)
    bits = -sum(np.log2(share[plane][test[:, plane]]).sum() for plane in range(2))
    assert 8 * len(coder.encode(test)) == pytest.approx(bits, rel=1e-3, abs=64)


def test_a_damaged_stream_decodes_to_other_codes():
    train, test = correlated_codes(60, 2, 32, 1), correlated_codes(20, 2, 32, 2)
    coder = StaticCoder(train, 32)
    data = bytearray(coder.encode(test))
    data[0] ^= 0x40
    coder.encode = lambda codes: bytes(data)
    with pytest.raises((AssertionError, LoocError)):
        measured(coder, test)


def test_integer_tables_are_legal():
    tables_ = integer_tables(np.array([[0.0, 0, 0], [1e9, 1, 0], [1, 1, 1]]))
    assert (tables_.sum(1) == 2**TABLE_BITS).all() and tables_.min() >= 1


def test_classes_hold_neighbours():
    points = np.concatenate([np.full((5, 2), 0.0), np.full((5, 2), 9.0)]) + np.random.default_rng(0).normal(size=(10, 2)) * 0.1
    classes = classes_of(points, np.ones(10), limit=2)
    assert len(set(classes[:5])) == len(set(classes[5:])) == 1 and classes[0] != classes[9]
    assert len(set(classes_of(points, np.zeros(10), limit=4))) == 4


def test_uniform_bits():
    assert uniform_bits((10, 32, 7, 7), (256,)) == 10 * 32 * 49 * 8
    assert uniform_bits((1, 2, 1, 1), (4, 16)) == 6


@pytest.mark.parametrize("name", ["looc-16x32", "looc-16x32b2", "rq-16x128x2", "pq-8x32x4", "vq-16x128"])
def test_plane_codevectors_tell_what_a_code_adds(name):
    torch.manual_seed(0)
    model = build_model(parse_row(name), 1, photo=False).eval()
    with torch.inference_mode():
        codes = model.codes(torch.randn(1, 1, 28, 28))
        factor = codes.shape[2] // 7
        found = plane_codevectors(model.quantizer, codes.shape[1], factor)
        codes = codes[:, :, :1, :1].expand(-1, -1, factor, factor)
        base = model.quantizer.lookup(torch.zeros_like(codes))[0, :, 0, 0].numpy()
        total = base + sum(found[plane, int(codes[0, plane, 0, 0])] - base for plane in range(codes.shape[1]))
        assert np.allclose(total, model.quantizer.lookup(codes)[0, :, 0, 0].numpy(), atol=1e-5)


# --- protocols ------------------------------------------------------------------------------------------------------


def test_uniform_ssim_is_that_of_scikit_image():
    from skimage.metrics import structural_similarity

    rng = np.random.default_rng(0)
    first = rng.integers(0, 256, (4, 28, 30, 3), np.uint8)
    second = np.clip(first + rng.normal(0, 30, first.shape), 0, 255).astype(np.uint8)
    expected = [structural_similarity(one, two, win_size=11, channel_axis=2) for one, two in zip(first, second, strict=True)]
    assert np.allclose(uniform_ssim(first, second), expected, atol=1e-10)


def test_gaussian_ssim_of_equal_pictures_is_one():
    pictures = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 1), np.uint8)
    assert np.allclose(gaussian_ssim(pictures, pictures), 1)


def test_rounding_and_truncation():
    values = np.array([-1.2, -1, -1 + 1.9 / 127.5, 0, 1, 3], np.float32).reshape(1, 1, 2, 3)
    assert truncated(values).reshape(-1).tolist() == [0, 0, 1, 127, 255, 255]
    assert rounded(values).reshape(-1).tolist() == [0, 0, 2, 128, 255, 255]


def test_psnr():
    white, black = np.full((1, 4, 4, 1), 255, np.uint8), np.zeros((1, 4, 4, 1), np.uint8)
    absolute, squared = errors(white, black)
    assert absolute[0] == squared[0] == 1 and psnr_of(squared)[0] == 0
    assert psnr_of(0.0) == 100


def test_paper_protocol_flatters_low_rows_and_punishes_high_ones():
    """PAPER's observation: with JPEG on both sides true 24 dB reads higher and true 40 dB lower."""
    rng = np.random.default_rng(0)
    smooth = np.cumsum(np.cumsum(rng.normal(size=(20, 32, 32, 3)), 1), 2)
    originals = np.uint8(np.interp(smooth, (smooth.min(), smooth.max()), (10, 245)))
    for noise, higher in ((16, True), (1.5, False)):
        values = (originals + rng.normal(0, noise, originals.shape)) / 127.5 - 1
        found = {}
        for protocol in ("paper", "clean"):
            meter = QualityMeter(protocol, len(originals))
            meter.add(originals[:7], values[:7].transpose(0, 3, 1, 2))
            meter.add(originals[7:], values[7:].transpose(0, 3, 1, 2))
            found[protocol] = meter.quality()
        assert (found["paper"].values["PSNR"] > found["clean"].values["PSNR"]) == higher
        assert "rFID of 20 pictures" in found["paper"].reasons["rFID"]


def test_gray_goes_through_jpeg_as_colour():
    assert through_jpeg(np.zeros((2, 28, 28, 1), np.uint8)).shape == (2, 28, 28, 3)


# --- training and rows that are kept --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_mnist(root, counts=(48, 16))
    return root


def request(data, out, name="looc-16x32", **changes):
    values = dict(epochs=1.0, minutes=None, batch=16, seed=1, bf16=False, limit=None, test_limit=None, perceptual=False, adversarial=False)
    return RowRequest(parse_row(name), "mnist", data, out, settings_for("mnist", **(values | changes)))


def test_default_recipe_is_the_papers():
    plain = dict(epochs=None, minutes=None, batch=None, seed=42, bf16=False, limit=None, test_limit=None, perceptual=True, adversarial=True)
    small, faces = settings_for("mnist", **plain), settings_for("ffhq", **plain)
    assert (small.epochs, small.batch) == (500, 1024)
    assert (small.rate, small.decay, small.start) == (1e-3, 0.4, "kmeans"), "the better measured recipe"
    assert (faces.decay, faces.start) == (0.0, "released") and faces.rate == pytest.approx(3 * 4.5e-6)
    papers = settings_for("mnist", **plain, rate=3e-4, decay=0.0, start="released")
    assert (papers.rate, papers.decay, papers.start, papers.epochs) == (3e-4, 0.0, "released", 500)
    assert settings_for("mnist", **plain, steps=70).steps == 70 and settings_for("mnist", **plain, steps=70).epochs is None
    assert (faces.batch, faces.adversarial_start) == (3, 30_001)
    assert settings_for("imagenet", **plain).adversarial_start == 250_001


def test_training_resumes_exactly(data, tmp_path, one_thread):
    settings = TrainSettings(epochs=2, batch=16, seed=3)
    pictures, _ = pictures_for("mnist", data, settings)

    def trainer():
        torch.manual_seed(3)
        return RowTrainer(build_model(parse_row("cvq-16x128"), 1, photo=False), EpochBatches(pictures, 16, 3, "cpu"), settings)

    whole, first = trainer(), trainer()
    whole.run(tmp_path / "whole.safetensors")
    for _ in range(2):
        first.step()
    first.save(tmp_path / "part.safetensors")
    torch.rand(10)
    second = trainer()
    second.run(tmp_path / "part.safetensors")
    assert second.step_count == whole.step_count == 6
    for (name, expected), got in zip(whole.model.state_dict().items(), second.model.state_dict().values(), strict=True):
        assert torch.equal(expected, got), name


def test_moments_lie_in_memory_as_their_parameters_do(tmp_path):
    """The fused step of Adam goes by memory: moments that a checkpoint brings back in another order would belong to other weights."""
    trainer = trainer_of("looc-16x32", steps=4)
    trainer.step()
    trainer.save(tmp_path / "a.safetensors")
    again = trainer_of("looc-16x32", steps=4)
    again.resume(tmp_path / "a.safetensors")
    moments = [(parameter, state["exp_avg"]) for parameter, state in again.optimizer.state.items()]
    assert any(parameter.stride() != parameter.contiguous().stride() for parameter, _ in moments), "channels last"
    assert all(parameter.stride() == moment.stride() for parameter, moment in moments)


def test_training_lowers_the_loss(data):
    pictures = ArrayPictures("stripes", np.uint8(np.indices((1, 28, 28, 1))[2] * 9).repeat(16, 0))
    torch.manual_seed(0)
    trainer = RowTrainer(build_model(parse_row("looc-16x32"), 1, photo=False), EpochBatches(pictures, 16, 42, "cpu"), TrainSettings(epochs=25, batch=16))
    found = [readable(trainer.step())["psnr_db"] for _ in range(25)]
    assert found[-1] > found[0] + 3


def trainer_of(row: str, **options) -> RowTrainer:
    torch.manual_seed(0)
    return RowTrainer(build_model(parse_row(row), 3, photo=False), EpochBatches(noise_pictures(side=32), 4, 1, "cpu"), TrainSettings(batch=4, **options))


def test_the_rate_falls_over_the_last_part_of_a_run():
    trainer, rates = trainer_of("looc-16x32", steps=10, rate=0.01, decay=0.4), []
    for _ in range(10):
        trainer.step()
        rates.append(trainer.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.01] * 7 + [0.0075, 0.005, 0.0025])
    trainer = trainer_of("looc-16x32", steps=2, rate=0.01, decay=0.0)
    trainer.step(), trainer.step()
    assert trainer.optimizer.param_groups[0]["lr"] == 0.01


@pytest.mark.parametrize("row", ["looc-8x32", "vq-8x128", "pq-8x32", "vq-8x128-ema"])
def test_a_start_at_clusters_is_nearer_to_the_latents(row):
    def distance(start):
        trainer = trainer_of(row, steps=1, start=start)
        trainer.start_codebook()
        model = trainer.model.eval()
        with torch.no_grad():
            latent = model.backbone.encode(trainer.batches.at(0))
            return float((model.quantizer.lookup(model.quantizer.codes(latent)) - latent).square().mean())

    assert distance("kmeans") < 0.9 * distance("released")
    with pytest.raises(ModelError, match="start 'warm' is none of kmeans, released"):
        trainer_of(row, steps=1, start="warm")


def test_batches_are_those_of_the_epochs_order():
    """Every picture once in an epoch, in -1..1 as `to_network` has it, and the same again for the same step."""
    pictures = noise_pictures(count=9)
    batches = EpochBatches(pictures, 4, 5, "cpu")
    epoch = torch.cat([batches.at(step) for step in (0, 1)])
    expected = to_network(pictures.pictures)
    assert all((epoch == picture).flatten(1).all(1).sum() <= 1 for picture in expected)
    assert all(any(torch.equal(one, picture) for picture in expected) for one in epoch)
    assert torch.equal(EpochBatches(pictures, 4, 5, "cpu").at(3), batches.at(3)) and not torch.equal(batches.at(2), batches.at(0))


def test_variance_of_pixels():
    pictures = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)
    assert pixel_variance(ArrayPictures("", pictures)) == pytest.approx(np.var(pictures / 255))


def test_a_finished_row_is_not_trained_again(data, tmp_path, monkeypatch):
    asked = request(data, tmp_path)
    pictures = pictures_for("mnist", data, asked.settings)
    result = run_row(asked, pictures)
    assert result["code_shape"] == [16, 4, 7, 7] and result["steps"] == 3
    assert result["rates"]["uniform"]["bpp"] == pytest.approx(16 * 4 * 49 * 4 / (16 * 28 * 28))
    assert result["rates"]["static"]["bpp"] == pytest.approx(8 * result["rates"]["static"]["stream_bytes"] / (16 * 28 * 28))
    assert set(result["quality"]) == {"paper", "clean"} and result["missing"]["rFID"]
    monkeypatch.setattr(RowTrainer, "run", lambda *arguments: pytest.fail("trained again"))
    assert run_row(asked, pictures) == result
    with pytest.raises(ReproductionError, match="made with other settings .*batch 16.*another --out"):
        run_row(request(data, tmp_path, batch=8), pictures)
    (asked.folder / "result.json").write_text("{}")
    with pytest.raises(ReproductionError, match="holds no result"):
        run_row(asked, pictures)


def test_an_interrupted_row_goes_on(data, tmp_path, monkeypatch):
    asked = request(data, tmp_path)
    pictures = pictures_for("mnist", data, asked.settings)
    steps = []
    step = RowTrainer.step

    def interrupted(self):
        if len(steps) == 2:
            raise KeyboardInterrupt
        steps.append(self.step_count)
        return step(self)

    monkeypatch.setattr(RowTrainer, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_row(asked, pictures)
    monkeypatch.setattr(RowTrainer, "step", lambda self: (steps.append(self.step_count), step(self))[1])
    run_row(asked, pictures)
    assert steps == [0, 1, 2]


def test_a_network_trained_on_another_set_is_not_trained_again(data, tmp_path, monkeypatch):
    """Table 12: CelebA is a test of FFHQ's networks. Here MNIST's network is tested under another name."""
    monkeypatch.setattr(run_module, "TRAINED_ON", {"fashion-mnist": "mnist"})
    write_mnist(tmp_path / "sets", "FashionMNIST", counts=(16, 16))
    first = request(data, tmp_path)
    result = run_row(first, pictures_for("mnist", data, first.settings))
    monkeypatch.setattr(RowTrainer, "step", lambda self: pytest.fail("trained again"))
    other = dataclasses.replace(first, dataset="fashion-mnist", data=tmp_path / "sets")
    tested = run_row(other, (pictures_for("mnist", data, first.settings)[0], run_module.open_pictures("fashion-mnist", tmp_path / "sets", "test", None)))
    assert tested["steps"] == result["steps"] and tested["codes_sha256"] != result["codes_sha256"]
    assert (other.folder / "result.json").exists() and not (other.folder / "checkpoint.safetensors").exists()
    longer = dataclasses.replace(other, row=first.row, settings=dataclasses.replace(first.settings, epochs=9.0))
    (other.folder / "result.json").unlink()
    with pytest.raises(ReproductionError, match="other settings"):
        run_row(longer, pictures_for("mnist", data, first.settings))


def test_too_few_pictures_for_a_batch(data, tmp_path):
    asked = request(data, tmp_path, batch=64)
    with pytest.raises(ModelError, match="fewer than one batch of 64"):
        run_row(asked, pictures_for("mnist", data, asked.settings))


# --- tables and plots -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    return out, list(run_rows([request(data, out, name) for name in ("looc-32x4", "vq-1024x128")], lambda part, words: None))


def test_table_puts_the_papers_figures_beside(results, tmp_path):
    _, found = results
    written = tables.write_table("1", found, tmp_path)
    assert [path.name for path in written] == ["table-1.json", "table-1.csv", "table-1.md"]
    text = (tmp_path / "table-1.md").read_text()
    assert "(35.15, " in text and "(26.48, " in text
    assert "Trained on MNIST train, 48 pictures" in text and "3 steps" in text and "none chosen on the test set" in text
    assert "rate 0.001 falling over the last 40%, kmeans start" in text and text.count("| 3 × 16 |") == 2, "the budget stands beside every row"
    assert "Printed, not trained here: CVQ-VAE 1024 × 128" in text
    rows = list(csv.DictReader((tmp_path / "table-1.csv").open()))
    psnr = next(row for row in rows if row["row"] == "looc-32x4" and row["protocol"] == "paper" and row["metric"] == "PSNR")
    assert float(psnr["difference"]) == pytest.approx(float(psnr["ours"]) - 35.15, abs=1e-5)
    fid = next(row for row in rows if row["metric"] == "rFID" and row["protocol"] == "paper")
    assert fid["ours"] == "" and "rFID of 16 pictures" in fid["reason"]
    assert json.loads((tmp_path / "table-1.json").read_text())["rows"][0]["row"] == "looc-32x4"
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert widths == {7, 8, 13}


def test_usage_and_sharing():
    counts = np.array([[1, 0, 2, 0], [3, 0, 0, 1]])
    assert plots.usage_of_segments(counts) == [0.5, 0.5]
    assert plots.sharing(counts) == [0.75, 0.25]


def test_plots_are_drawn(results, data, monkeypatch):
    out, _ = results
    # The codec's own points take seconds on a real model; one quality of JPEG shows the way.
    monkeypatch.setattr(plots, "CODEC_QUALITIES", {"jpeg": (50, 90)})
    written = plots.draw_analyses(out, data)
    names = {path.name for path in written}
    assert {"mnist-rate-psnr.png", "mnist-psnr-over-k.png", "mnist-segment-usage.png", "mnist-sharing.png", "analyses.json"} <= names
    assert all(path.stat().st_size > 500 for path in written)
    numbers = json.loads((out / "plots" / "analyses.json").read_text())["mnist"]
    assert len(numbers["usage"]["looc-32x4"]) == len(numbers["sharing"]["looc-32x4"]) == 32
    assert ("mnist-tsne.png" in names) != ("scikit-learn is not installed" in numbers.get("tsne", ""))
    low, high = numbers["codecs"]["JPEG"]
    assert low["bpp"] < high["bpp"] and low["psnr_db"] < high["psnr_db"]


def test_printed_points_have_the_papers_rate():
    points = {point["row"]: point for point in plots.printed_points("cifar10")}
    assert points["LooC 256 × 4"] == {"row": "LooC 256 × 4", "bpp": 16.0, "psnr_db": 34.51}
    assert points["CVQ 1024 × 128"]["bpp"] == 0.625 and points["LooC 8192 × 4"]["bpp"] == 26
    assert plots.printed_points("ffhq") == []


def test_plots_need_rows(tmp_path, data):
    with pytest.raises(ReproductionError, match="holds no finished rows"):
        plots.draw_analyses(tmp_path, data)


def test_mosaic():
    pictures = np.arange(5 * 2 * 3, dtype=np.uint8).reshape(5, 2, 3, 1)
    whole = plots.mosaic(pictures)
    assert whole.shape == (4, 6, 3)
    assert np.array_equal(whole[2:, 3:, 0], pictures[3, ..., 0])


def test_command(data, tmp_path):
    from typer.testing import CliRunner

    from looc_codec.cli import app

    def run(*words):
        return CliRunner().invoke(app, ["reproduce", *words, "--data", str(data), "--out", str(tmp_path)])

    done = run("1", "--dataset", "mnist", "--rows", "looc-32x4", "--epochs", "0.4", "--batch", "16", "--json")
    assert done.exit_code == 0, done.output
    assert [path.rsplit("/", 1)[-1] for path in json.loads(done.stdout)["written"]] == ["table-1.json", "table-1.csv", "table-1.md"]
    again = run("1", "--dataset", "mnist", "--rows", "looc-16x32", "--steps", "2", "--batch", "16", "--rate", "0.0003", "--decay", "0", "--start", "released", "--json")
    assert again.exit_code == 0, again.output
    assert "rate 0.0003, released start" in (tmp_path / "table-1.md").read_text()
    assert run("1", "--dataset", "cifar10", "--epochs", "1").exit_code == 1
    generation = run("11")
    assert generation.exit_code == 1 and "table 11 is about generation" in generation.stderr
    for wrong in (("13",), ("1", "--dataset", "kodak"), ("1", "--dataset", "ffhq"), ("1", "--epochs", "1", "--time-budget", "1"), ("1", "--steps", "3", "--epochs", "1"), ("1", "--start", "warm")):
        assert run(*wrong).exit_code == 2
    assert run("1", "--rows", "looc").exit_code == 1
