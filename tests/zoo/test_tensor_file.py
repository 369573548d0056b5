"""Files of tensors, read without torch: what the format's own library writes, and what nobody should."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from deeprecsys.core.errors import InputError
from deeprecsys.zoo.tensor_file import FLOATS, WHOLE, TensorFile

FOUND = {
    "a": torch.arange(6, dtype=torch.float32).reshape(2, 3) / 7,
    "half": torch.linspace(-2, 2, 5, dtype=torch.float16),
    "brain": torch.linspace(-2, 2, 8, dtype=torch.bfloat16).reshape(2, 2, 2),
    "double": torch.linspace(-2, 2, 3, dtype=torch.float64),
    "ids": torch.arange(4, dtype=torch.int32),
    "long": torch.tensor(-(2**40)),
    "none": torch.zeros(0, 4),
}


def opened(data: bytes) -> TensorFile:
    fd = os.memfd_create("test")
    os.write(fd, data)
    return TensorFile(fd, "weights x")


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deeprecsys.zoo.tensor_file._PIECE_BYTES", 8)  # several pieces of each


def test_what_the_library_writes_is_read_and_written_again() -> None:
    file = opened(save(FOUND))
    again = opened(file.copy_of([*FOUND][1:]))
    assert set(again.tensors) == set(FOUND) - {"a"}
    for key, tensor in FOUND.items():
        kinds = FLOATS if tensor.dtype.is_floating_point else WHOLE
        for f in (file, again) if key != "a" else (file,):
            values = f.read(key, tuple(tensor.shape), kinds)
            np.testing.assert_array_equal(
                values, tensor.to(torch.float64 if kinds is WHOLE else torch.float32)
            )
    out = np.zeros((2, 3), np.float32)
    file.read_into("a", out)
    np.testing.assert_array_equal(out, FOUND["a"])
    for key, shape, kinds in (("a", (3, 2), FLOATS), ("a", (2, 3), WHOLE), ("b", (1,), FLOATS)):
        with pytest.raises(InputError, match=r"^weights x: (expected a key|'a': expected)"):
            file.read(key, shape, kinds)


def test_a_file_that_shrinks_is_an_error() -> None:
    file = opened(save(FOUND))
    os.ftruncate(file.fd, file.tensors["a"].offset + 10)
    with pytest.raises(InputError, match=r"^weights x: 'a': expected its data, got the end of the file"):
        file.read("a", (2, 3))


@settings(max_examples=150)
@given(st.data())
def test_whatever_a_file_holds_it_is_read_or_refused_in_one_line(data: st.DataObject) -> None:
    good = save({"a": FOUND["a"], "ids": FOUND["ids"]})
    raw = bytearray(data.draw(st.one_of(st.binary(max_size=80), st.just(good))))
    for _ in range(data.draw(st.integers(0, 3))):
        if raw:
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw
    fd = os.memfd_create("test")
    os.write(fd, raw)
    said = "weights x: expected"
    try:
        for values in TensorFile(fd, "weights x").all_of().values():
            assert values.dtype in (np.float32, np.int64)
    except InputError as e:
        said = str(e)
    finally:
        os.close(fd)
    assert said.startswith("weights x: expected")
    assert "\n" not in said
    assert len(said) < 600


@pytest.mark.parametrize(
    "entry",
    [
        [],
        {"dtype": "F32"},
        {"dtype": "X", "shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]},
        {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [96, 100]},
        {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [0, 2**60], "data_offsets": [0, 0]},
        {"dtype": "F32", "shape": [1] * 40, "data_offsets": [0, 4]},
    ],
)  # fmt: skip
def test_heads_that_do_not_fit_are_refused(entry: object) -> None:
    head = json.dumps({"a": entry}).encode()
    with pytest.raises(
        InputError, match=r"^weights x: expected a file of tensors \(safetensors\), got: 'a': "
    ):
        opened(len(head).to_bytes(8, "little") + head + bytes(8))


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2)}, tmp_path / "x.pt")
    with pytest.raises(InputError, match="expected a file of tensors"):
        opened((tmp_path / "x.pt").read_bytes())
