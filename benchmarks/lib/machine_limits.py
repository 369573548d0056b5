"""The machine's limits by microbenchmarks that are no engine: products of the best library, loops over rows.

    Products     matrix products by each library, weights prepacked where the library can: each alone, or all
                 of a model in turn
    asking       a loop that prefetches every line of every row of a batch, and reads none
    reading      a loop that reads a word of each line

`asking` takes less than any gather can: beyond its miss buffers a processor drops prefetches.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deeprecsys.zoo.onnx_session import session

Call = Callable[[], Any]

STALLED = 1.1
"""A sample whose wall time is more than this many times its CPU time (and 50 us more) is spoilt: the
process did not have its core."""
SLOWED = 1.2
"""A round whose canary, a loop on registers, takes more than this many times its median is spoilt."""
WARM = 0.5
"""Before each turn a contender runs untimed for this share of its turn: a worker under load runs batch after batch,
and for some milliseconds after a pause a core of a shared machine is slower."""
LEAST = 3
"""Rounds that must be left."""


class Rounds(NamedTuple):
    """CPU seconds per call of each contender, round by round; what was spoilt is NaN."""

    seconds: dict[str, NDArray[np.float64]]
    dropped: float
    """Share of samples that were spoilt."""
    disturbed: tuple[str, ...]
    """Contenders with too few samples that were not: of these all are kept, and are to be doubted."""

    def median(self, name: str) -> float:
        return float(np.nanmedian(self.seconds[name]))


def interleaved(
    calls: dict[str, Call], rounds: int, round_s: float, meet: Callable[[], Any] = lambda: None
) -> Rounds:
    """Rounds of all contenders in turn: what disturbs the machine disturbs all alike.

    Args:
        round_s: for about this time a contender repeats its call in a round; it calls at least once.
        meet: called before each contender's turn: where processes wait for each other.
    """
    calls = {"canary": canary(), **calls}
    repeats = {name: _repeats(call, round_s) for name, call in calls.items()}
    taken: dict[str, list[float]] = {name: [] for name in calls}
    fair: dict[str, list[bool]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            if repeats[name] > 1:
                _for(call, WARM * round_s)  # what the others left in the caches is theirs
            meet()
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(repeats[name]):
                call()
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            taken[name].append(cpu / repeats[name])
            fair[name].append(wall <= STALLED * cpu + 5e-5)
    return _kept({n: np.array(t) for n, t in taken.items()}, {n: np.array(f) for n, f in fair.items()})


def _for(call: Call, seconds: float) -> None:
    """Call for `seconds` seconds, once at least."""
    until = time.perf_counter() + seconds
    call()
    while time.perf_counter() < until:
        call()


def _repeats(call: Call, round_s: float) -> int:
    call()
    began = time.perf_counter()
    call()
    return max(1, min(1000, round(round_s / max(time.perf_counter() - began, 1e-7))))


def _kept(seconds: dict[str, NDArray[np.float64]], fair: dict[str, NDArray[np.bool_]]) -> Rounds:
    """Drop what was spoilt; where too few rounds would be left all are kept, and the contender is named."""
    own = seconds.pop("canary")
    steady = own <= SLOWED * np.median(own)
    dropped, disturbed = [], []
    for name, t in seconds.items():
        good = fair[name] & steady
        if good.sum() < min(LEAST, len(t)):
            disturbed.append(name)
            good = np.ones(len(t), bool)
        seconds[name] = np.where(good, t, np.nan)
        dropped.append(1 - good.mean())
    return Rounds(seconds, float(np.mean(dropped)), tuple(disturbed))


def canary() -> Call:
    """A loop on registers of some 100 us."""
    from numba import njit

    @njit(nogil=True)
    def loop(count: int, x: float) -> float:
        for _ in range(count):
            x = x * 0.999 + 0.5
        return x

    loop(1, 1.0)
    return lambda: loop(30_000, 1.0)


class Products:
    """Matrix products by every library; sessions are kept by shape of the weight."""

    def __init__(self, precision: str = "fp32", threads: int = 1) -> None:
        self._precision, self._threads = precision, threads
        self._rng = np.random.default_rng(0)
        self._sessions: dict[tuple[str, int, int, int], Any] = {}

    def libraries(self) -> tuple[str, ...]:
        from deeprecsys.engine.dense import installed, lowest

        if self._precision == "bf16":
            able = "openvino" in installed() and lowest("openvino", "bf16") == "bf16"
            return ("torch", *(("openvino",) if able else ()))
        return ("torch", "onnxruntime", *(("openvino",) if "openvino" in installed() else ()))

    def call(self, library: str, m: int, k: int, n: int, copy: int = 0) -> Call:
        """One product [m, k] x [k, n], into an array that is there; other copies have other weights."""
        x = self._rng.random((m, k), np.float32)
        made: Call = getattr(self, f"_{library}")(x, n, copy)
        return made

    def chain(self, library: str, products: Sequence[tuple[int, int, int, int]]) -> Call:
        """Products (m, k, n, times) one after the other, each with its own weight, which is where the others
        left it: in a product that is repeated alone it stays in the nearest cache."""
        calls = [(self.call(library, m, k, n, copy), times) for copy, (m, k, n, times) in enumerate(products)]
        steps = [call for call, times in calls for _ in range(times)]

        def run() -> None:
            for step in steps:
                step()

        return run

    def _weight(self, k: int, n: int) -> NDArray[np.float32]:
        return self._rng.random((k, n), np.float32)

    def _graph(self, k: int, n: int) -> bytes:
        """An ONNX graph of the product, for any number of rows."""
        return _onnx(f"(float[m,{k}] x) => (float[m,{n}] y) {{ y = MatMul(x, w) }}", w=self._weight(k, n))

    def _numpy(self, x: NDArray[np.float32], n: int, copy: int) -> Call:
        w, out = self._weight(x.shape[1], n), np.empty((len(x), n), np.float32)
        return lambda: np.matmul(x, w, out=out)

    def _torch(self, x: NDArray[np.float32], n: int, copy: int) -> Call:
        import torch

        kind = torch.bfloat16 if self._precision == "bf16" else torch.float32
        a, w = torch.from_numpy(x).to(kind), torch.from_numpy(self._weight(x.shape[1], n)).to(kind)
        out = torch.empty((len(x), n), dtype=kind)

        def product() -> None:
            with torch.inference_mode():
                torch.mm(a, w, out=out)

        return product

    def _onnxruntime(self, x: NDArray[np.float32], n: int, copy: int) -> Call:
        key = ("onnxruntime", x.shape[1], n, copy)
        if key not in self._sessions:
            self._sessions[key] = session(self._graph(x.shape[1], n), self._threads)
        return _bound(self._sessions[key], x, np.empty((len(x), n), np.float32))

    def _openvino(self, x: NDArray[np.float32], n: int, copy: int) -> Call:
        import openvino as ov

        key = ("openvino", x.shape[1], n, copy)
        if key not in self._sessions:
            config = {
                "INFERENCE_PRECISION_HINT": "bf16" if self._precision == "bf16" else "f32",
                "INFERENCE_NUM_THREADS": self._threads, "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False,
            }  # fmt: skip
            core = ov.Core()
            graph = core.read_model(self._graph(x.shape[1], n))
            self._sessions[key] = core.compile_model(graph, "CPU", config)
        request, out = self._sessions[key].create_infer_request(), np.empty((len(x), n), np.float32)
        request.set_input_tensor(ov.Tensor(x, shared_memory=True))
        request.set_output_tensor(ov.Tensor(out, shared_memory=True))
        keep = (x, out)  # the request does not
        return lambda: request.infer() and keep


def product_rates(
    products: Products,
    libraries: Sequence[str],
    shapes: Sequence[tuple[int, int, int]],
    rounds: int,
    round_s: float,
) -> dict[str, Any]:
    """GFLOP/s of products by shape and library, and the best of all."""
    rates = {}
    for m, k, n in shapes:
        calls = {lib: products.call(lib, m, k, n) for lib in libraries}
        taken = interleaved(calls, rounds, round_s)
        rates[f"{m}x{k}x{n}"] = {lib: 2e-9 * m * k * n / taken.median(lib) for lib in calls}
    return {"by_shape": rates, "best": max(max(r.values()) for r in rates.values())}


def _onnx(graph: str, **weights: NDArray[np.float32]) -> bytes:
    """An ONNX graph from its text."""
    from onnx import numpy_helper, parser

    model = parser.parse_model(f'<ir_version: 9, opset_import: ["": 18]> one {graph}')
    model.graph.initializer.extend(numpy_helper.from_array(w, name) for name, w in weights.items())
    data: bytes = model.SerializeToString()
    return data


def _bound(session: Any, x: NDArray[np.float32], y: NDArray[np.float32]) -> Call:
    """A call of a session on arrays that are there."""
    binding = session.io_binding()
    binding.bind_input("x", "cpu", 0, np.float32, x.shape, x.ctypes.data)
    binding.bind_output("y", "cpu", 0, np.float32, y.shape, y.ctypes.data)
    keep = (x, y)
    return lambda: session.run_with_iobinding(binding) or keep


def row_loops() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """`asking` and `reading`: (addresses of ids, how many, tables, bytes of a row and between rows)."""
    from numba import njit

    from deeprecsys.engine.vectors import half_word, prefetch, real

    @njit(nogil=True)
    def asking(ids: Any, counts: Any, tables: Any, sizes: Any, strides: Any) -> None:
        for i in range(len(ids)):
            at, last = ids[i], sizes[i] - 1
            for k in range(counts[i]):
                row = tables[i] + half_word(at + 4 * k) * strides[i]
                prefetch(row)
                line = (row & -64) + 64
                while line <= row + last:
                    prefetch(line)
                    line += 64

    @njit(nogil=True)
    def reading(ids: Any, counts: Any, tables: Any, sizes: Any, strides: Any) -> float:
        total = np.float32(0)
        for i in range(len(ids)):
            at, last = ids[i], sizes[i] - 1
            for k in range(counts[i]):
                row = tables[i] + half_word(at + 4 * k) * strides[i]
                total += real(row)
                line = (row & -64) + 64
                while line <= row + last:
                    total += real(line)
                    line += 64
        return total

    return asking, reading


def random_rows(table_bytes: float, sizes: Sequence[int], rounds: int, round_s: float) -> dict[str, Any]:
    """ns per row of random accesses in one table on huge pages, by size of the row."""
    from deeprecsys.node.runtime.segment import Segment

    segment = Segment.create("limits", int(table_bytes))
    segment.collapse()
    np.frombuffer(segment.memory, np.uint8)[::4096] = 1
    count = 1 << 16
    asking, reading = row_loops()
    rng, calls, keep = np.random.default_rng(0), {}, []
    for size in sizes:
        ids = rng.integers(0, int(table_bytes) // size - 1, (16, count), dtype=np.int32)
        keep.append(ids)
        for name, loop in (("asking", asking), ("reading", reading)):
            calls[f"{name} {size}"] = _over(loop, ids, count, segment._address, size)
    found = interleaved(calls, rounds, round_s)
    huge = segment.huge_fraction()
    segment.close()
    ns = {name: 1e9 * found.median(name) / count for name in calls}
    return {"table_bytes": int(table_bytes), "huge_page_fraction": huge, "ns_per_row": ns}


def _over(loop: Callable[..., Any], ids: NDArray[np.int32], count: int, table: int, size: int) -> Call:
    """A call that goes over other ids each time."""
    counts, tables, sizes = np.array([count]), np.array([table]), np.array([size])
    rows = [np.array([row.ctypes.data]) for row in ids]
    return in_turn(rows, lambda row: loop(row, counts, tables, sizes, sizes))


def in_turn(values: Sequence[Any], use: Callable[[Any], Any]) -> Call:
    """A call that uses another value each time."""
    turn = cycle(values)
    return lambda: use(next(turn))


def wise_rates(rounds: int, round_s: float) -> dict[str, float]:
    """Elements per second of tanh and sigmoid in cache, of the faster of torch and ONNX Runtime; bytes per
    second that a dot product of 8 MB reads."""
    import torch

    x = np.random.default_rng(0).standard_normal(1 << 14, np.float32)
    t, out = torch.from_numpy(x), torch.empty(len(x))
    y = np.empty_like(x)
    calls: dict[str, Call] = {}
    for op, function in (("Tanh", torch.tanh), ("Sigmoid", torch.sigmoid)):
        graph = _onnx(f"(float[{len(x)}] x) => (float[{len(x)}] y) {{ y = {op}(x) }}")
        calls[f"{op} onnxruntime"] = _bound(session(graph), x, y)
        calls[f"{op} torch"] = lambda f=function: f(t, out=out)
    a = np.ones(1 << 21, np.float32)
    calls["stream"] = lambda: np.dot(a, a)
    found = interleaved(calls, rounds, round_s)
    rates = {
        op.lower(): len(x) / min(found.median(f"{op} {lib}") for lib in ("torch", "onnxruntime"))
        for op in ("Tanh", "Sigmoid")
    }
    return {**rates, "stream_bytes": a.nbytes / found.median("stream")}
