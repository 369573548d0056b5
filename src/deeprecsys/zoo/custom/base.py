"""What a user writes to have a PyTorch model served. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from deeprecsys.zoo.schema import Schema

if TYPE_CHECKING:
    from torch import nn


class OwnModel:
    """A model as its two stages: embedding look-ups, which `schema` describes, and all the rest.

    A subclass takes no arguments. Its tables are filled from the weights file, or from a seed where none is
    given: capacity can be planned before there is a trained model.

    Attributes:
        schema: tables, inputs and the number of scores per item.
        table_keys: by table name, its key in the weights file; by default the name itself, or NAME.weight.
        dense_prefix: what the dense stage's keys begin with in the weights file.
    """

    schema: ClassVar[Schema]
    table_keys: ClassVar[Mapping[str, str]] = {}
    dense_prefix: ClassVar[str] = ""

    def dense_stage(self) -> nn.Module:
        """A new module without the embedding tables.

        Its `forward` is called with one keyword argument per input of the schema, float32: a dense input as
        it came, a sparse one as its rows, pooled: [n, dim] summed or averaged, [n, lookups * dim] side by
        side, [n, lookups, dim] as a sequence. n is 1 where the input is per query. It returns [n, outputs],
        or [n].
        """
        raise NotImplementedError
