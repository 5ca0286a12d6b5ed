"""Progress within one picture: shares rise to 1, whatever is done with it; nobody need listen."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from test_codec import photo

from looc_codec import api, progress
from looc_codec.codec.rate_control import Target
from looc_codec.images import Picture


def heard(work) -> list[float]:
    shares: list[float] = []
    with progress.listening(shares.append):
        work()
    return shares


def test_parts_nest():
    def work():
        with progress.part(0.5, 1.0):
            progress.report(0.5)
            with progress.part(0.5, 0.75):
                progress.report(0.5)

    assert heard(work) == [0.75, 0.8125, 0.875, 1.0]


def test_nobody_listens_by_default_nor_from_another_thread():
    progress.report(0.5)
    with progress.part(0, 1):
        progress.report(0.5)
    shares: list[float] = []
    with progress.listening(shares.append):
        thread = threading.Thread(target=progress.report, args=(0.5,))
        thread.start()
        thread.join()
    progress.report(0.7)
    assert shares == []


@pytest.mark.parametrize("effort", [0, 2])
def test_shares_rise_while_a_picture_is_compressed_and_restored(tiny_model, effort):
    data = []
    compressing = heard(lambda: data.append(api.compress(photo(230, 150), quality=60, model=tiny_model, effort=effort)))
    restoring = heard(lambda: api.decompress(data[0], model=tiny_model))
    for shares in (compressing, restoring):
        assert shares == sorted(shares) and 0 < shares[0] <= 0.5 and shares[-1] == pytest.approx(1)
        assert len(set(shares)) > 6


@pytest.mark.parametrize("target", [Target("size", 700), Target("psnr", 15)])
def test_shares_rise_over_the_trials_of_a_search(tiny_model, target):
    picture = Picture(rgb=np.ascontiguousarray(photo(90, 70)))
    shares = heard(lambda: api.compress_picture(picture, target=target, model=tiny_model))
    assert shares == sorted(shares) and 0.2 < shares[-1] <= 1
