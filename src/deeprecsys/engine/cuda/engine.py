"""The engine: slices → passes → pinned arena → device → scores, two passes under way at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from itertools import pairwise
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from deeprecsys.core.errors import InputError, unknown
from deeprecsys.engine.cuda.layout import (
    LARGEST,
    MOST_SLICES,
    SliceItems,
    StagingArena,
    bucket_of,
    buckets,
    passes,
    slices_together,
    view,
)
from deeprecsys.engine.cuda.programs import FLAG, SCORES, Network, program, scores_of
from deeprecsys.engine.cuda.queues import Mark, queues
from deeprecsys.engine.cuda.tables import DeviceTables, free_bytes
from deeprecsys.engine.protocol import Assembly, SliceView
from deeprecsys.engine.spec import COMPILE
from deeprecsys.zoo.jagged import Ids
from deeprecsys.zoo.networks import weighted
from deeprecsys.zoo.schema import Per

SLOTS = 2
"""Passes under way at once: while one is computed, the next is filled and copied."""
DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Precision -> what is stored and computed in; tf32 stores fp32 and rounds the factors of products."""


class Took(NamedTuple):
    """Seconds of one pass: on the host to fill and to issue it, on the device for each step."""

    fill_s: float
    issue_s: float
    copy_in_s: float
    compute_s: float
    copy_out_s: float


class _Ticket(NamedTuple):
    """A pass under way."""

    slot: int
    pieces: list[SliceItems]
    items: int
    out: NDArray[Any]
    flag: NDArray[Any]
    began: Mark
    arrived: Mark
    computed: Mark
    done: Mark
    fill_s: float
    issue_s: float


class DeviceEngine:
    """Scores on one device. The same code runs on CUDA and, for its tests, on the CPU.

    A batch is cut into passes of at most `largest` items, each padded to a power of two: ids of padding
    are 0, its scores are cut off. Ids are checked on the device; where one is outside its table another
    row is read in its place, the batch fails, and the caller scores its slices one by one.

    Args:
        assembly: model, tables, inputs, precision (where `precision` is not given).
        device: "cuda", "cuda:1", "cpu".
        precision: fp32, tf32, bf16 or fp16; by default the assembly's, its fp32 as tf32 products.
        largest: items of the largest bucket, a power of two.
        free: bytes of the device that may be filled; by default what is free there.
        compiled: have torch compile the dense stage before it is captured.
        timed: keep what each pass took, in `took`.

    Raises:
        InputError: tables larger than the device's memory, or a precision that it does not compute in.
    """

    def __init__(
        self,
        assembly: Assembly,
        device: str = "cuda",
        *,
        precision: str | None = None,
        largest: int = LARGEST,
        free: int | None = None,
        compiled: bool = False,
        timed: bool = False,
    ) -> None:
        precision = precision or ("tf32" if assembly.precision == "fp32" else assembly.precision)
        if precision not in DTYPES:
            raise unknown("precision of engine cuda", precision, DTYPES)
        torch.set_num_threads(assembly.threads)
        where = torch.device(device)
        if where.type == "cuda":
            # Pinned memory, kernels in Triton's language and captures go by the current device.
            torch.cuda.set_device(where)
            torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
            torch.backends.cudnn.allow_tf32 = precision == "tf32"  # DIEN's recurrent layer is cuDNN's
        schema, dtype = assembly.model.schema, DTYPES[precision]
        if schema.jagged:
            raise InputError(
                f"engine cuda: expected inputs of fixed length, got a jagged one, {schema.jagged[0].name!r}"
            )
        self._schema = schema
        self._inputs = {n: rows for n, rows in assembly.inputs.items() if not isinstance(rows, Ids)}
        tables = DeviceTables(schema, assembly.tables, where, dtype, free or free_bytes(where))
        dense = weighted(assembly.model, assembly.seed, assembly.dense).to(device=where, dtype=dtype)
        if compiled:
            dense = torch.compile(dense, dynamic=True)  # type: ignore[assignment] # it is callable alike
        self._network = Network.of(schema, tables, dense, dtype)
        self._together = slices_together(schema)
        self._per_query = any(i.per is Per.QUERY for i in schema.inputs)
        self._largest = buckets(largest)[-1]
        self._queues = queues(where, timed)
        self._arenas: dict[tuple[int, int], StagingArena] = {}
        self._programs: dict[tuple[int, int, int], Callable[[], object]] = {}
        self._pool = torch.cuda.graph_pool_handle() if where.type == "cuda" else None
        most = max(self._arena(self._largest, s).words for s in self._slice_buckets(self._largest))
        out = SCORES + self._largest * schema.outputs
        self._host_in = [self._queues.host(most) for _ in range(SLOTS)]
        self._host_out = [self._queues.host(out) for _ in range(SLOTS)]
        self._device_in = [torch.zeros(most, dtype=torch.int32, device=where) for _ in range(SLOTS)]
        self._device_out = [torch.zeros(out, dtype=torch.int32, device=where) for _ in range(SLOTS)]
        self._slot = 0
        self.took: list[Took] | None = [] if timed else None
        if where.type == "cuda":
            torch.cuda.synchronize(where)  # tables and weights are written by another stream
            self._capture()

    def score(self, slices: Sequence[SliceView]) -> None:
        """See `Engine.score`.

        Raises:
            IndexError: an id is outside its table.
            ValueError: a slice is outside its input's rows.
        """
        waiting: deque[_Ticket] = deque()
        faulty = False
        try:
            for pieces in passes(slices, self._largest, self._together):
                if len(waiting) == SLOTS:
                    faulty |= self._collect(waiting.popleft(), slices)
                waiting.append(self._submit(pieces, slices))
        finally:
            while waiting:
                faulty |= self._collect(waiting.popleft(), slices)
        if faulty:
            raise IndexError(self._fault(slices))

    def _submit(self, pieces: list[SliceItems], slices: Sequence[SliceView]) -> _Ticket:
        began_s = perf_counter()
        slot, self._slot = self._slot, (self._slot + 1) % SLOTS
        items = sum(p.stop - p.start for p in pieces)
        bucket = bucket_of(items)
        several = len(pieces) > 1 and self._per_query
        arena = self._arena(bucket, self._slice_buckets(bucket)[-1] if several else 1)
        self._fill(self._host_in[slot].numpy()[: arena.words], arena, pieces, slices)
        filled_s = perf_counter()
        words, out = arena.words, SCORES + items * self._network.outputs
        q = self._queues
        began = q.mark("copy_in")
        with q.on("copy_in"):
            self._device_in[slot][:words].copy_(self._host_in[slot][:words], non_blocking=True)
        arrived = q.mark("copy_in")
        run = self._program(slot, arena)
        with q.on("compute", arrived):
            run()
        computed = q.mark("compute")
        with q.on("copy_out", computed):
            self._host_out[slot][:out].copy_(self._device_out[slot][:out], non_blocking=True)
        done = q.mark("copy_out")
        host = self._host_out[slot]
        return _Ticket(
            slot, pieces, items, scores_of(host, items, self._network.outputs).numpy(),
            host[FLAG : FLAG + 1].numpy(), began, arrived, computed, done,
            filled_s - began_s, perf_counter() - filled_s,
        )  # fmt: skip

    def _fill(
        self,
        words: NDArray[np.int32],
        arena: StagingArena,
        pieces: list[SliceItems],
        slices: Sequence[SliceView],
    ) -> None:
        """Lay the pieces' rows into the arena, and zeros behind them."""
        parts = [(slices[p.slice], p) for p in pieces]
        network = self._network
        inputs = [(b.names, b.per, pl, np.int32) for b, pl in zip(network.blocks, arena.blocks, strict=True)]
        inputs += [
            ((v.name,), v.per, pl._replace(shape=(1, *pl.shape)), np.float32)  # type: ignore[misc]
            for v, pl in zip(network.vectors, arena.vectors, strict=True)
        ]
        for names, per, place, dtype in inputs:
            rows = view(words, place, dtype)
            at = 0
            for s, p in parts:
                many = p.stop - p.start if per is Per.ITEM else 1
                offset = s.start + p.start if per is Per.ITEM else 0
                for row, name in zip(rows, names, strict=True):
                    first = s.first[name] + offset
                    row[at : at + many] = self._inputs[name][first : first + many]
                at += many
                if per is Per.QUERY and arena.slices == 1:
                    break  # pieces of several slices only where nothing is per query
            rows[:, at:] = 0
        if arena.slice_of_item:
            slice_of_item = view(words, arena.slice_of_item, np.int32)
            counts = [p.stop - p.start for p in pieces]
            slice_of_item[: sum(counts)] = np.repeat(np.arange(len(pieces)), counts)
            slice_of_item[sum(counts) :] = 0

    def _collect(self, ticket: _Ticket, slices: Sequence[SliceView]) -> bool:
        """Wait for a pass, give its scores to their slices; whether one of its ids was outside its table."""
        ticket.done.wait()
        at = 0
        for p in ticket.pieces:
            slices[p.slice].out[p.start : p.stop] = ticket.out[at : (at := at + p.stop - p.start)]
        if self.took is not None:
            spans = (ticket.began, ticket.arrived, ticket.computed, ticket.done)
            steps = (b.since_s(a) for a, b in pairwise(spans))
            self.took.append(Took(ticket.fill_s, ticket.issue_s, *steps))
        return bool(ticket.flag[0])

    def _fault(self, slices: Sequence[SliceView]) -> str:
        """The first id of a batch that is outside its table, in words."""
        for s in slices:
            for i in self._schema.sparse:
                first = s.first[i.name]
                span = (first + s.start, first + s.stop) if i.per is Per.ITEM else (first, first + 1)
                ids = self._inputs[i.name][slice(*span)]
                rows = self._schema.table(i.table).rows
                wrong = ids[(ids < 0) | (ids >= rows)]
                if wrong.size:
                    return f"input {i.name!r}: expected ids from 0 to {rows - 1}, got {wrong.flat[0]}"
        return "an id was outside its table"

    def _slice_buckets(self, bucket: int) -> tuple[int, ...]:
        """Slices that a bucket of items has room for: one, or as many as may come."""
        if bucket == 1 or not self._per_query or not self._together:
            return (1,)
        return (1, min(bucket, MOST_SLICES))

    def _arena(self, items: int, slices: int) -> StagingArena:
        found = self._arenas.get((items, slices))
        if found is None:
            network = self._network
            found = StagingArena.of(network.blocks, network.vectors, items, slices)
            self._arenas[items, slices] = found
        return found

    def _program(self, slot: int, arena: StagingArena) -> Callable[[], object]:
        key = (slot, arena.items, arena.slices)
        if key not in self._programs:
            words, out = self._device_in[slot], self._device_out[slot]
            self._programs[key] = program(self._network, arena, words, out, self._queues, self._pool)
        return self._programs[key]

    def _capture(self) -> None:
        """Capture all graphs beforehand, the largest first: the others fit into its memory."""
        for bucket in reversed(buckets(self._largest)):
            for slices in self._slice_buckets(bucket):
                for slot in range(SLOTS):
                    self._program(slot, self._arena(bucket, slices))


class CudaEngine(DeviceEngine):
    """`cuda`, or `cuda:[PRECISION][,compile][,device=N]`: the engine on one of this process's GPUs.

    Raises:
        InputError: there is no such CUDA device, or as `DeviceEngine`.
    """

    def __init__(self, assembly: Assembly, args: str = "", device: int = 0) -> None:
        words = args.split(",")
        super().__init__(
            assembly,
            cuda_device(device, torch.cuda.device_count()),
            precision=words[0] if words[0] not in ("", COMPILE) else None,
            compiled=COMPILE in words,
        )


def cuda_device(device: int, count: int) -> str:
    """torch's name of a device, of `count` that there are; InputError if it is none of them."""
    if not count:
        raise InputError("engine cuda: expected a CUDA device and torch built for it, got none")
    if device >= count:
        raise InputError(f"engine cuda: expected a device below {count}, got device {device}")
    return f"cuda:{device}"
