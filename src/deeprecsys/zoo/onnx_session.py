"""ONNX Runtime over a graph, as engines and a user's own models run it."""

from __future__ import annotations

from typing import Any

from deeprecsys.core.errors import InputError


def session(graph: bytes, threads: int = 1) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU; with one thread it computes on the caller's.

    Raises:
        InputError: ONNX Runtime cannot run the graph: an operator or operator set is unknown to it, say.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors are raised
    # Idle threads that spin would take the cores of other workers.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0" if threads == 1 else "1")
    try:
        return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as e:
        said = " ".join(str(e).split())
        raise InputError(
            f"ONNX graph: expected one that ONNX Runtime {ort.__version__} runs, got: {said}"
        ) from e


def without_weights(graph: bytes, other: bytes) -> bytes:
    """A graph without the initialisers that another has under the same name."""
    return _weights_of(graph, other, put=False)


def with_weights(graph: bytes, other: bytes) -> bytes:
    """A graph with the initialisers of another, of which `without_weights` took some."""
    return _weights_of(graph, other, put=True)


def _weights_of(graph: bytes, other: bytes, put: bool) -> bytes:
    import onnx

    model, theirs = (onnx.load_from_string(g) for g in (graph, other))
    own = model.graph.initializer
    if put:
        used = {name for node in model.graph.node for name in node.input}
        own.extend(w for w in theirs.graph.initializer if w.name in used)
    else:
        names = {w.name for w in theirs.graph.initializer}
        kept = [w for w in own if w.name not in names]
        del own[:]
        own.extend(kept)
    data: bytes = model.SerializeToString()
    return data
