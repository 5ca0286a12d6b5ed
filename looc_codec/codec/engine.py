"""Runs the graphs of a model with ONNX Runtime.

Threads never wait in a loop: two processes side by side on two cores take 1.1 times as long as one and not three times
(docs/BENCHMARKS.md). The graphs of the prior run on the CPU whatever the device, since their sums must be exact.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from looc_codec.errors import ModelError

PROVIDERS = {
    "cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "openvino": "OpenVINOExecutionProvider",
    "directml": "DmlExecutionProvider", "coreml": "CoreMLExecutionProvider",
}  # fmt: skip
"""Names of devices, and what ONNX Runtime calls them."""
EXACT_GRAPHS = ("prior.", "details.")
"""Beginnings of the names of graphs whose sums are exact only on the CPU."""
THREADS_VARIABLE = "LOOC_THREADS"
PICTURES_AT_ONCE = 2
"""Pictures that an engine lets be in work at a time. One reads codes in Python while the other's networks run; more would gain nothing and
take 66 MiB for each 1.15 megapixels (docs/BENCHMARKS.md)."""


Found = TypeVar("Found")


@dataclass(frozen=True)
class Graph:
    """One exported network: ONNX without weights, and the names of the tensors that it reads."""

    onnx: bytes
    tensors: tuple[str, ...]


def default_threads() -> int:
    """`LOOC_THREADS`, or the number of cores that this process may use. ModelError for a value that is no such number."""
    value = os.environ.get(THREADS_VARIABLE, "")
    if not value:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not value.isdecimal() or not 1 <= int(value) <= 1024:
        raise ModelError(f"{THREADS_VARIABLE}={value!r} is not a number of threads; give one of 1 to 1024 or unset it")
    return int(value)


class Engine:
    """Sessions of a model's graphs, each made when it is first needed or `prepare`d.

    Safe for threads: sessions are shared, several are made at a time, and graphs run one at a time, since each uses all threads of the engine. Whoever
    works on a whole picture does so by `in_turn`.
    """

    def __init__(self, graphs: Mapping[str, Graph], tensor: Callable[[str], np.ndarray], threads: int, device: str = "cpu", *, optimise: bool = True) -> None:
        """`tensor` gives the tensors that graphs read, by name. Without `optimise` graphs run as they are stored, which is slower;
        to compare. Raises ModelError when the device is not there."""
        self._optimise = optimise
        self._graphs, self._tensor, self.threads, self.device = graphs, tensor, threads, device
        self._sessions: dict[str, Any] = {}
        self._weights: dict[str, list[Any]] = {}
        self._making: dict[str, threading.Lock] = {name: threading.Lock() for name in graphs}
        self._running = threading.Lock()
        self._turns, self._turn = threading.BoundedSemaphore(PICTURES_AT_ONCE), threading.local()
        self._workers = ThreadPoolExecutor(PICTURES_AT_ONCE, "looc")
        if device != "cpu" and PROVIDERS.get(device) not in runtime().get_available_providers():
            raise ModelError(f"device {device!r} is not available here; leave --device away to run on the CPU")

    def run(self, name: str, *shapes: tuple[int, ...], **inputs: np.ndarray) -> list[np.ndarray]:
        """The outputs of a graph, of these shapes, for its inputs by name; float32 arrays all of them.

        Raises ModelError where the graph fails or gives anything else: graphs come from a file, and a forged one may hold any.
        """
        session = self.session(name)
        feed = {key: np.ascontiguousarray(value, np.float32) for key, value in inputs.items()}
        try:
            with self._running:
                outputs = session.run(None, feed)
        # As in `_made`. What a picture holds cannot make a network fail, so it is the model that is wrong.
        except Exception as error:
            if "allocate memory" in str(error):
                raise MemoryError(f"the network {name} needs more memory than there is") from error
            raise ModelError(f"the model's network {name} fails ({error}); install its weights again") from error
        if [(getattr(value, "dtype", None), getattr(value, "shape", None)) for value in outputs] != [(np.float32, shape) for shape in shapes]:
            raise ModelError(f"the model's network {name} gives maps of another size than it should; install its weights again")
        return outputs

    def in_turn(self, work: Callable[[], Found]) -> Found:
        """What `work` gives, called when fewer than `PICTURES_AT_ONCE` others are at work.

        In the main thread it is called there, so that Ctrl-C ends it. For all other threads two threads of the engine's own do it: C
        libraries keep a heap for each thread, so that callers who do it themselves take 56 MiB each (8 at once, 1.15 megapixels), with these 43.
        """
        if getattr(self._turn, "taken", False):
            return work()
        # Once the main thread has ended, pools take no work any more.
        if threading.current_thread() is threading.main_thread() or not threading.main_thread().is_alive():
            return self._taking_turns(work)
        return self._workers.submit(contextvars.copy_context().run, self._taking_turns, work).result()

    def _taking_turns(self, work: Callable[[], Found]) -> Found:
        with self._turns:
            self._turn.taken = True
            try:
                return work()
            finally:
                self._turn.taken = False

    def has(self, name: str) -> bool:
        return name in self._graphs

    def prepare(self, names: tuple[str, ...]) -> threading.Thread:
        """Makes sessions in the background, one after the other, while other work goes on: ONNX Runtime lets go of Python meanwhile.

        A process that ends meanwhile waits for the thread: ONNX Runtime aborts when the interpreter goes from under it.
        """

        def make() -> None:
            # What is wrong with a network is said when it is needed.
            with contextlib.suppress(ModelError):
                for name in filter(self.has, names):
                    # A command that fails meanwhile ends after the session that is being made.
                    if threading.main_thread().is_alive():
                        self.session(name)

        thread = threading.Thread(target=make)
        thread.start()
        return thread

    def session(self, name: str) -> Any:
        """The session of a graph. Raises ModelError where it cannot be run."""
        if name not in self._graphs:
            raise ModelError(f"the model has no network {name}; install its weights again")
        with self._making[name]:
            if name not in self._sessions:
                self._sessions[name] = self._made(name)
            return self._sessions[name]

    def _made(self, name: str) -> Any:
        library, graph = runtime(), self._graphs[name]
        options = library.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        options.log_severity_level = 4
        if not self._optimise:
            options.graph_optimization_level = library.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.use_env_allocators", "1")
        exact = name.startswith(EXACT_GRAPHS)
        device = "cpu" if exact else self.device
        try:
            self._weights[name] = [library.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(self._tensor(tensor))) for tensor in graph.tensors]
            options.add_external_initializers(list(graph.tensors), self._weights[name])
            providers = [PROVIDERS[device], *([] if device == "cpu" else ["CPUExecutionProvider"])]
            # Its fallback to other providers prints to standard output, which may carry a picture.
            return library.InferenceSession(graph.onnx, options, providers=providers, enable_fallback=0)
        # ONNX Runtime's errors have no common base but Exception.
        except Exception as error:
            raise ModelError(f"the model's network {name} cannot be run ({error}); install its weights again") from error


_loading = threading.Lock()


def _after_fork() -> None:
    # A fork copies a lock as it is, which another thread may have held at that moment.
    global _loading
    _loading = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def runtime() -> Any:
    """ONNX Runtime, set up once per process."""
    with _loading:
        return _runtime()


@functools.lru_cache(maxsize=1)
def _runtime() -> Any:
    """ONNX Runtime, which is imported here and nowhere else, with one pool of memory for all sessions: with one each, 12 megapixels
    peaked at 1.7 instead of 0.9 GB."""
    # Its wheels report use to their maker unless told otherwise before the import: they write a device identifier and a queue of events.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    memory = onnxruntime.OrtMemoryInfo("Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT)
    usual = {"max_mem": 0, "arena_extend_strategy": -1, "initial_chunk_size_bytes": -1, "max_dead_bytes_per_chunk": -1}
    onnxruntime.create_and_register_allocator(memory, onnxruntime.OrtArenaCfg(usual))
    return onnxruntime
