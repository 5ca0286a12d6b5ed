"""One truth for each part of a model: tables, integers and constants cannot get out of step with what files are written with."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from conftest import build_trainable_model, build_tiny_model, encoder_of
from test_codec import photo

from looc_codec import api
from looc_codec.codec.model import read_model, write_model
from looc_codec.errors import ModelError
from looc_codec.format import constants
from looc_codec.format.integers import fingerprint_of
from looc_codec.networks.model import LoocModel
from looc_codec.training.export import core_of, export


def flattened(book) -> torch.Tensor:
    """Legal tables, `(rows, K + 1)`, that differ from those of the book: all symbols of a row nearly alike."""
    return book.frequencies.double().sqrt().float()


def test_tables_fitted_after_an_export_change_nothing_but_the_next_export():
    trainable = build_trainable_model()
    first = export(trainable)
    before, rgb = api.compress(photo(90, 70), quality=60, model=first), photo(90, 70)
    held = {name: value.copy() for name, value in first.core.items()}
    frequencies, bits, fingerprint = first.tables.frequencies.copy(), first.tables.bits.copy(), first.fingerprint
    trainable.codebook.set_tables(flattened(trainable.codebook))

    assert first.fingerprint == fingerprint == fingerprint_of(first.config, dict(first.core))
    assert all(np.array_equal(first.core[name], value) for name, value in held.items())
    assert np.array_equal(first.tables.frequencies, frequencies) and np.array_equal(first.tables.bits, bits)
    assert api.compress(rgb, quality=60, model=first) == before
    restored = np.asarray(api.decompress(before, model=first))

    second = export(trainable)
    assert second.fingerprint != fingerprint
    assert not np.array_equal(second.tables.frequencies, frequencies)
    assert np.array_equal(second.tables.frequencies, trainable.codebook.frequencies.numpy())
    after = api.compress(rgb, quality=60, model=second)
    # The very codes of the second model cost what its own tables say, not what those of the first do.
    assert len(after) != len(before)
    for data, other in ((before, second), (after, first)):
        with pytest.raises(ModelError, match="was written with model"):
            api.decompress(data, model=other)
        with pytest.raises(ModelError, match="was written with model"):
            api.verify(data, model=other)
    assert np.array_equal(np.asarray(api.decompress(before, model=first)), restored)
    api.verify(after, model=second)


def test_a_fit_in_place_reaches_no_exported_model():
    """Even what writes into the very tensors of the trainable model."""
    trainable = build_trainable_model()
    model = export(trainable)
    held = {name: value.copy() for name, value in (*model.core.items(), *model.transforms.items())}
    book = trainable.codebook
    with torch.no_grad():
        for tensor in (book.codevectors, book.frequencies, book.digit_factor, *trainable.parameters()):
            tensor.add_(1)
        book.live.logical_not_()
    assert all(np.array_equal(value, held[name]) for name, value in (*model.core.items(), *model.transforms.items()))


def test_arrays_of_a_codec_model_are_read_only(tiny_model, tiny_model_file):
    for model in (tiny_model, read_model(tiny_model_file)):
        tables = model.tables
        arrays = [
            *model.core.values(), *model.transforms.values(), tables.codevectors, tables.frequencies, tables.digit_factor,
            tables.live, tables.padded, tables.shifted_row, tables.first_digit_row,
        ]  # fmt: skip
        for array in arrays:
            with pytest.raises(ValueError, match="read-only"):
                array[...] = 0
        for mapping in (model.core, model.transforms, model.graphs, model.shapes):
            with pytest.raises(TypeError):
                mapping["new"] = None


@pytest.mark.parametrize("part", ["prior", "details"])
def test_integers_are_not_kept_where_their_floats_were_trained_since(part):
    model = build_tiny_model(detail_channels=32, detail_width=8)
    core, trainable = dict(model.core), LoocModel.of(model)
    kept = {name: value for name, value in core.items() if not name.startswith("codebook.")}
    # Untouched integers stay to the bit.
    again = export(trainable, keep=kept)
    assert again.fingerprint == model.fingerprint
    with torch.no_grad():
        for name, parameter in getattr(trainable, part).named_parameters():
            if name.endswith("weight"):
                parameter.mul_(-1)
    with pytest.raises(ModelError, match=f"the {part} was trained after"):
        export(trainable, keep=kept)
    changed = export(trainable)
    assert changed.fingerprint != model.fingerprint
    written = core_of(trainable)
    assert all(np.array_equal(changed.core[name], value) for name, value in written.items())
    assert any(not np.array_equal(written[name], core[name]) for name in core if name.startswith(f"{part}."))


def test_changed_integers_are_what_is_written_and_used(tmp_path):
    trainable = build_trainable_model()
    first = export(trainable)
    with torch.no_grad():
        trainable.prior.quality_log_scale.table += 0.5
    second = export(trainable)
    path = tmp_path / "second.safetensors"
    write_model(second, path)
    stored = read_model(path)
    assert stored.fingerprint == second.fingerprint != first.fingerprint
    name = "prior.quality_log_scale"
    assert np.array_equal(stored.core[name], second.core[name]) and not np.array_equal(stored.core[name], first.core[name])
    latent = encoder_of(first).transforms.analyse(photo(90, 70), 60)
    one, two, three = (encoder_of(model).encode_latent(latent, 60).segments for model in (first, second, stored))
    assert two == three != one


@pytest.mark.parametrize("name", sorted(constants.all_constants()))
def test_constants_of_the_format_are_part_of_the_fingerprint(tiny_model, monkeypatch, name):
    value = getattr(constants, name)
    monkeypatch.setattr(constants, name, value[:-1] if isinstance(value, tuple) else value + 1)
    assert fingerprint_of(tiny_model.config, dict(tiny_model.core)) != tiny_model.fingerprint


def test_a_weights_file_of_other_constants_is_refused(tiny_model_file, monkeypatch):
    monkeypatch.setattr(constants, "TRELLIS_STATES", 64)
    with pytest.raises(ModelError, match="fingerprint"):
        read_model(tiny_model_file)


def test_every_number_of_the_constants_module_is_digested():
    declared = {name for name in vars(constants) if name.isupper() and not name.startswith("_")}
    assert declared == set(constants.all_constants()) and {"TABLE_BITS", "PYRAMID", "PATH_UNITS"} <= declared
    json.dumps(constants.all_constants())
