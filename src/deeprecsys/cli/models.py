"""`models`: the zoo."""

from __future__ import annotations

from typing import Any

from deeprecsys.cli import options as opt
from deeprecsys.cli.help import command
from deeprecsys.cli.output import emit
from deeprecsys.report import tables
from deeprecsys.report.documents import ModelDocument
from deeprecsys.zoo import MODELS, Model
from deeprecsys.zoo.schema import Per


@command("models")
@opt.json_file
def models(json: str | None) -> None:
    """List the zoo: sizes, FLOPs and bytes per item, the paper's medium target."""
    rows = [_model_row(m) for m in MODELS.values()]
    emit(str(tables.models([ModelDocument.from_json(row) for row in rows])), rows, json)


def _model_row(m: Model) -> dict[str, Any]:
    schema = m.schema
    return {
        "name": m.name,
        "bottleneck": m.bottleneck,
        "target_ms": m.medium_target_ms,
        "tables": len(schema.tables),
        "table_bytes": schema.table_bytes,
        "dense_parameters": m.dense_parameters,
        "flops_per_item": m.flops(Per.ITEM),
        "flops_per_query": m.flops(Per.QUERY),
        "bytes_per_item": schema.gathered_bytes(Per.ITEM),
        "bytes_per_query": schema.gathered_bytes(Per.QUERY),
        "feature_bytes_per_item": schema.feature_bytes(Per.ITEM),
        "feature_bytes_per_query": schema.feature_bytes(Per.QUERY),
        "outputs": schema.outputs,
    }
