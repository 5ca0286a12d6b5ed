"""What programs call: options, sources, errors, threads, forks and small pictures."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_codec import photo

import looc_codec
from looc_codec import LoocError, ModelError, api
from looc_codec.errors import FormatError, ImageError
from looc_codec.metrics import psnr_db


@pytest.fixture(scope="module")
def data(tiny_model) -> bytes:
    return api.compress(photo(101, 75), quality=60, model=tiny_model)


def test_public_names_are_the_front():
    assert set(looc_codec.__all__) - {"__version__"} <= set(dir(looc_codec))
    assert looc_codec.compress is api.compress


def test_targets(tiny_model):
    rgb = photo(160, 120)
    size = len(api.compress(rgb, target_size=2500, model=tiny_model))
    assert 1500 < size <= 2500
    assert len(api.compress(rgb, target_bpp=1.0, model=tiny_model)) <= 160 * 120 / 8
    back = np.asarray(api.decompress(api.compress(rgb, target_psnr=20, model=tiny_model), model=tiny_model))
    assert psnr_db(rgb, back) >= 20
    with pytest.raises(ImageError, match="only one"):
        api.compress(rgb, target_size=2500, target_bpp=1, model=tiny_model)


def test_bytes_paths_and_file_objects_are_read(tiny_model, data, tmp_path):
    path = tmp_path / "a.looc"
    path.write_bytes(data)
    expected = np.asarray(api.decompress(data, model=tiny_model))
    with path.open("rb") as file:
        for source in (bytearray(data), memoryview(data), path, str(path), io.BytesIO(data), file):
            assert np.array_equal(np.asarray(api.decompress(source, model=tiny_model)), expected)
    api.verify(path, model=tiny_model)


def test_info_and_truncate(tiny_model, data):
    found = api.info(data)
    assert (found.width, found.height, found.quality, found.level, found.groups, found.held_groups) == (101, 75, None, 60, 2, 2)
    assert found.fingerprint == tiny_model.fingerprint.hex() and found.model is None and found.file_bytes == len(data)
    assert found.bpp == pytest.approx(8 * len(data) / (101 * 75)) and not found.grey
    cut = api.truncate(data, groups=1)
    assert api.info(cut).held_groups == 1
    assert api.decompress(cut, model=tiny_model, allow_truncated=True).size == (101, 75)
    assert any(entry.name == "photo" for entry in api.models())


@pytest.mark.parametrize(
    "call",
    [
        lambda data: api.decompress(5), lambda data: api.decompress(None), lambda data: api.decompress(io.StringIO("x")), lambda data: api.decompress("nowhere.looc"),
        lambda data: api.info([]), lambda data: api.verify(3.5), lambda data: api.truncate({}, groups=1), lambda data: api.truncate(data),
        lambda data: api.compress("photo.png"), lambda data: api.compress(photo(8, 8), quality=True), lambda data: api.compress(photo(8, 8), quality="50"),
        lambda data: api.compress(photo(8, 8), effort="1"), lambda data: api.compress(photo(8, 8), model=5), lambda data: api.compress(photo(8, 8), model="none such"),
        lambda data: api.compress(photo(8, 8), threads=0), lambda data: api.compress(photo(8, 8), threads="2"), lambda data: api.compress(photo(8, 8), device="toaster"),
        lambda data: api.compress(photo(8, 8), target_size="many"), lambda data: api.compress(photo(8, 8), target_psnr=float("nan")),
        lambda data: api.decompress(data, scale=0.3), lambda data: api.decompress(data, scale="1/2"), lambda data: api.decompress(data, scale=None),
        lambda data: api.decompress(data, groups=0), lambda data: api.decompress(data, groups="2"), lambda data: api.decompress(data, max_pixels="many"),
        lambda data: api.load_model(7), lambda data: api.load_model(b"photo"),
    ],
)  # fmt: skip
def test_whatever_is_wrong_is_a_looc_error(tiny_model_file, monkeypatch, data, call):
    monkeypatch.setenv("LOOC_MODELS", str(tiny_model_file.parent))
    with pytest.raises(LoocError) as caught:
        call(data)
    assert str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "99999"])
def test_a_wrong_number_of_threads_in_the_environment_is_named(tiny_model, monkeypatch, value):
    monkeypatch.setenv("LOOC_THREADS", value)
    with pytest.raises(ModelError, match="LOOC_THREADS"):
        api.compress(photo(8, 8), model=tiny_model)


def test_bytes_do_not_depend_on_threads(tiny_model, monkeypatch):
    rgb = photo(150, 120)
    expected = api.compress(rgb, model=tiny_model, threads=1)
    monkeypatch.setenv("LOOC_THREADS", "2")
    assert api.compress(rgb, model=tiny_model) == expected
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: api.compress(rgb, model=tiny_model), range(8))) == {expected}
        pictures = list(pool.map(lambda _: np.asarray(api.decompress(expected, model=tiny_model)), range(8)))
    assert all(np.array_equal(picture, pictures[0]) for picture in pictures)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_goes_on(tiny_model, data):
    """In torch the child of a process that had used two threads waited for ever."""
    expected = np.asarray(api.decompress(data, model=tiny_model, threads=2)).tobytes()
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        os._exit(0 if np.asarray(api.decompress(data, model=tiny_model, threads=2)).tobytes() == expected else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


@pytest.mark.parametrize("shrink", [2, 4, 8, 16])
@pytest.mark.parametrize("size", [(101, 75), (1, 1), (16, 33), (640, 5)])
def test_small_pictures_have_their_size(tiny_model, size, shrink):
    small = api.decompress(api.compress(photo(*size), model=tiny_model), model=tiny_model, scale=1 / shrink)
    assert small.size == tuple(-(-side // shrink) for side in size) and small.mode == "RGB"


@pytest.mark.parametrize(("shrink", "least_db"), [(2, 31), (4, 32), (8, 36), (16, 40)])
@pytest.mark.parametrize("model", ["photo", "photo-psnr"])
def test_small_pictures_are_the_picture_made_small(model, shrink, least_db):
    from skimage.data import astronaut

    file = api.compress(np.ascontiguousarray(astronaut()[:256, 100:356, :3]), level=50, model=model)
    whole = np.asarray(api.decompress(file)).astype(float)
    means = whole.reshape(256 // shrink, shrink, 256 // shrink, shrink, 3).mean((1, 3))
    assert psnr_db(np.rint(means).astype(np.uint8), np.asarray(api.decompress(file, scale=1 / shrink))) > least_db


def test_small_pictures_keep_grey_and_transparency(tiny_model):
    grey = Image.fromarray(photo(70, 50)[..., 0])
    small = api.decompress(api.compress(grey, model=tiny_model), model=tiny_model, scale=1 / 4)
    assert small.mode == "L" and small.size == (18, 13)
    grey.putalpha(Image.linear_gradient("L").resize(grey.size))
    small = api.decompress(api.compress(grey, model=tiny_model), model=tiny_model, scale=1 / 4)
    assert small.mode == "LA" and small.size == (18, 13)
    alpha = np.asarray(small)[..., 1]
    assert alpha[0].max() < 20 and alpha[-1].min() > 235


def test_a_cut_file_gives_a_small_picture(tiny_model, data):
    cut = api.truncate(data, groups=1)
    with pytest.raises(FormatError):
        api.decompress(cut, model=tiny_model, scale=1 / 8)
    assert api.decompress(cut, model=tiny_model, scale=1 / 8, allow_truncated=True).size == (13, 10)


def test_threads_that_come_at_once_share_one_model(tiny_model_file, tmp_path):
    """Each of them read one of its own, with sessions of its own: twenty took 4 GB."""
    path = tmp_path / "looc-other.safetensors"
    path.write_bytes(tiny_model_file.read_bytes())
    barrier = threading.Barrier(8)

    def load(_):
        barrier.wait()
        return api.load_model(path)

    with ThreadPoolExecutor(8) as pool:
        assert len({id(model) for model in pool.map(load, range(8))}) == 1


def test_threads_go_on_when_the_main_thread_has_ended(tiny_model_file, tmp_path):
    """`Thread(target=work).start()` as the last line of a program: pools refuse work from then on."""
    script = tmp_path / "program.py"
    script.write_text(
        "import threading, time\nimport numpy as np\nfrom looc_codec import api\n"
        "def work():\n"
        "    threading.main_thread().join()\n"
        f"    model = api.load_model({str(tiny_model_file)!r})\n"
        "    rgb = np.random.default_rng(1).integers(0, 256, (400, 400, 3), np.uint8)\n"
        "    print(api.decompress(api.compress(rgb, model=model, threads=2), model=model).size)\n"
        "threading.Thread(target=work).start()\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(looc_codec.__file__).parent.parent)}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout.strip()) == (0, "(400, 400)"), done.stderr


def test_two_pictures_of_a_model_are_in_work_at_a_time(tiny_model, data, monkeypatch):
    """Twenty compressions of 1.15 megapixels at once took 4 GB."""
    from looc_codec.codec.decoder import Decoder
    from looc_codec.codec.encoder import Encoder
    from looc_codec.codec.engine import PICTURES_AT_ONCE

    inside, most, lock = 0, 0, threading.Lock()

    def counted(method):
        def call(*arguments, **options):
            nonlocal inside, most
            with lock:
                inside += 1
                most = max(most, inside)
            try:
                return method(*arguments, **options)
            finally:
                with lock:
                    inside -= 1

        return call

    monkeypatch.setattr(Encoder, "encode", counted(Encoder.encode))
    monkeypatch.setattr(Decoder, "restore", counted(Decoder.restore))
    rgb = photo(101, 75)

    def request(number):
        return api.compress(rgb, quality=60, model=tiny_model) if number % 2 else api.decompress(data, model=tiny_model).tobytes()

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(request, range(16)))
    assert most <= PICTURES_AT_ONCE and set(results[1::2]) == {data} and len(set(results[::2])) == 1


def test_a_failure_gives_its_turn_back(tiny_model, data):
    damaged = data[:-20] + bytes(16) + data[-4:]
    for _ in range(5):
        with pytest.raises(LoocError):
            api.decompress(damaged, model=tiny_model)
    assert api.decompress(data, model=tiny_model).size == (101, 75)
