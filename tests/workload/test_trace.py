"""Trace files: what is read, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deeprecsys.core.errors import InputError
from deeprecsys.workload import trace


def write(folder: Path, text: str, name: str = "trace.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "text",
    [
        "arrival_s,size\n0.5,3\n0.5,4\n2,5\n",
        "0.5,3\n0.5,4\n2,5",
        "\ufeffArrival_s , Size\r\n\r\n 0.5, 3\r\n0.5,4\r\n\r\n2.0,5\r\n",
    ],
)
def test_csv_with_and_without_header(tmp_path: Path, text: str) -> None:
    got = trace.read(write(tmp_path, text))
    np.testing.assert_array_equal(got.arrival_s, [0.5, 0.5, 2.0])
    np.testing.assert_array_equal(got.size, [3, 4, 5])
    assert (got.arrival_s.dtype, got.size.dtype) == (np.float64, np.int32)


def test_json_lines(tmp_path: Path) -> None:
    text = '{"arrival_s": 0.5, "size": 3}\n{"size": 4, "arrival_s": 7, "user": "x"}\n'
    got = trace.read(write(tmp_path, text, "trace.jsonl"))
    np.testing.assert_array_equal(got.arrival_s, [0.5, 7])
    np.testing.assert_array_equal(got.size, [3, 4])


def test_the_recorded_rate(tmp_path: Path) -> None:
    got = trace.read(write(tmp_path, "1700000000,1\n1700000001,1\n1700000004,1\n"))
    assert got.rate_qps == pytest.approx(0.5)
    assert got.period_s == pytest.approx(6.0)
    np.testing.assert_allclose(got.since_start_s, [2.0, 3.0, 6.0])


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", ": expected rows of arrival_s,size, got an empty file"),
        ("arrival_s,size\n", ": expected rows of arrival_s,size, got an empty file"),
        ("1,2\n3\n", ", line 2: expected arrival_s,size, got '3'"),
        ("1,2,3\n", ", line 1: expected arrival_s,size, got '1,2,3'"),
        ("time,items\n1,2\n", ", line 1: arrival_s: expected a number, got 'time'"),
        ("1,2\narrival_s,size\n", ", line 2: arrival_s: expected a number, got 'arrival_s'"),
        ("1,2\n\nx,3\n", ", line 3: arrival_s: expected a number, got 'x'"),
        ("1,2\nnan,3\n", ", line 2: arrival_s: expected a number, got 'nan'"),
        ("-1,2\n", ", line 1: arrival_s: expected at least 0, got -1"),
        ("1,2\n1.5,two\n", ", line 2: size: expected a number, got 'two'"),
        ("1,0\n", ", line 1: size: expected an integer of at least 1, got 0"),
        ("1,2.5\n", ", line 1: size: expected an integer of at least 1, got 2.5"),
        ("1,3000000000\n", ", line 1: size: expected an integer of at least 1, got 3e+09"),
        ("1,1\n\n3,1\n2.5,1\n", ", line 4: arrival_s: expected at least 3, the arrival before it, got 2.5"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path: Path, text: str, line: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(InputError) as e:
        trace.read(path)
    assert str(e.value) == f"trace {path}{line}"


@pytest.mark.parametrize("text", ["1,2\n", "{}\n", '{"arrival_s": 1}\n', "[1, 2]\n", "7\n"])
def test_a_bad_json_line(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text, "t.jsonl")
    with pytest.raises(InputError, match=r'line 1: expected \{"arrival_s": …, "size": …\}, got '):
        trace.read(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a readable file, got: No such file"):
        trace.read(tmp_path / "absent.csv")
    with pytest.raises(InputError, match="expected a readable file, got: Is a directory"):
        trace.read(tmp_path)
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(InputError, match="expected text in UTF-8"):
        trace.read(tmp_path / "binary.csv")
