"""What every engine is given, and what it must do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

from deeprecsys.zoo.jagged import InputRows
from deeprecsys.zoo.model import Model
from deeprecsys.zoo.tensor_file import TensorFile


@dataclass(frozen=True)
class Assembly:
    """What an engine is built from. The arrays lie in shared memory and are only read.

    Attributes:
        model: configuration, schema and dense stage.
        tables: by table name, rows in any format of `zoo.rows`; [rows, dim] float32 at fp32.
        inputs: by input name, the rows that slices point into: float32 [rows, width] of a dense
            input, int32 [rows, lookups] of a sparse one, `Ids` of a jagged one.
        seed: of the dense stage's weights.
        threads: compute threads that the engine may use.
        precision: "fp32", "bf16" or "int8": the lowest that may be computed in.
        dense: the dense stage's weights, where they come neither from `seed` nor with the model.
        reading: to be held while table rows are read, in a class whose attribute `holds_reading` is True;
            around the whole of `score` otherwise, by the caller. Rows do not change meanwhile.
    """

    model: Model
    tables: Mapping[str, NDArray[Any]]
    inputs: Mapping[str, InputRows]
    seed: int = 0
    threads: int = 1
    precision: str = "fp32"
    dense: TensorFile | None = None
    reading: AbstractContextManager[Any] = field(default_factory=nullcontext)


class SliceView(NamedTuple):
    """One slice of a batch, in terms of the assembly's input rows.

    A per-item input's rows are `first[input] + start` to `first[input] + stop`; a per-query input's is
    the one row `first[input]`.
    """

    first: Mapping[str, int]
    start: int
    stop: int
    out: NDArray[Any]
    """Where the scores go: float32 [stop - start, outputs]."""
    user: NDArray[Any] | None = None
    """What the user stage gives, float32 [1, `Model.user_stage`]: a slice without items writes it, one of
    items reads it in place of its per-query inputs. None: the slice computes all by itself."""


class Engine(Protocol):
    """Scores batches, one call at a time. Pure: the same slices give the same scores, in any batch.

    An attribute `arithmetic`, if there is one, states the number formats of rows and layers.
    """

    def score(self, slices: Sequence[SliceView]) -> None:
        """Write each slice's scores to its `out`.

        Raises:
            Exception: an input cannot be scored, for example an id is outside its table. The caller
                then scores the slices one by one, so that only the offending query fails.
        """
