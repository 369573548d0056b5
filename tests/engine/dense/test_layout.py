"""Layouts: every input has one place, and the buffers are where they say."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from deeprecsys.core.errors import InputError
from deeprecsys.engine import dense
from deeprecsys.engine.dense import Layout, build
from deeprecsys.zoo import MODELS, model
from deeprecsys.zoo.schema import Per
from tests.engine.dense.harness import network, small


@pytest.mark.parametrize("name", MODELS)
def test_every_input_has_one_place_and_the_columns_are_covered_once(name: str) -> None:
    m = model(name)
    layout = Layout.of(m)
    buffers = layout.allocate(3, 2)
    views = layout.views(buffers)
    assert set(views) == {i.name for i in m.schema.inputs}
    for buffer in buffers.values():
        assert buffer.ctypes.data % 64 == 0
        assert buffer.flags.c_contiguous
    for view in views.values():
        view += 1
    for name_, buffer in buffers.items():
        assert (buffer == 1).all(), name_
    for i in m.schema.inputs:
        assert len(views[i.name]) == (3 if i.per is Per.ITEM else 2)
        assert views[i.name].strides[-1] == 4


def test_what_is_concatenated_is_one_contiguous_buffer() -> None:
    layout = Layout.of(model("wnd"))
    assert [(b.name, b.per, b.width) for b in layout.buffers] == [
        ("user", Per.QUERY, 512 + 18 * 32),
        ("item", Per.ITEM, 9 * 32),
        ("cross", Per.ITEM, 1),
    ]
    assert layout.per_query
    assert not Layout.of(model("wnd-artefact")).per_query


def test_only_a_lone_dense_input_may_be_read_elsewhere() -> None:
    assert {b.name: b.direct for b in Layout.of(model("dlrm-rmc1")).buffers} == {
        "dense": True, "features": False,
    }  # fmt: skip
    assert not any(b.direct for b in Layout.of(model("wnd")).buffers)


def test_layouts_need_no_torch() -> None:
    code = "import sys, deeprecsys.engine.dense.layout; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_larger_batches_get_new_buffers_and_smaller_ones_keep_them() -> None:
    s = build("eager", small("ncf"), network("ncf"))
    s.reserve(500, 3)
    first = dict(s.buffers)
    s.reserve(400, 1)
    assert all(s.buffers[n] is first[n] for n in first)
    s.reserve(501, 1)
    assert {len(b) for b in s.buffers.values()} == {501, 3}
    assert np.isfinite(s.buffers["mf_user"]).all()


def test_bad_set_ups_are_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"dense route 'onxruntime'.*did you mean 'onnxruntime'"):
        build("onxruntime", small("ncf"), network("ncf"))
    with pytest.raises(InputError, match="threads: expected 1 or more, got 0"):
        build("eager", small("ncf"), network("ncf"), threads=0)
    with pytest.raises(InputError, match="precision of dense route eager: expected fp32, got bf16"):
        build("eager", small("ncf"), network("ncf"), precision="bf16")
    routes = {**dense.ROUTES, "odd": ("no.module", "None", ("onnx", "no_such_package"))}
    monkeypatch.setattr(dense, "ROUTES", routes)
    with pytest.raises(InputError, match=r"dense route odd: .*got no no_such_package: pip install"):
        build("odd", small("ncf"), network("ncf"))
    assert "odd" not in dense.installed()
