"""Lengths of jagged inputs: laws, what items have in common, pools and the work of streams."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deeprecsys.core.errors import InputError
from deeprecsys.workload.features import FeatureLayout
from deeprecsys.workload.lengths import parse
from deeprecsys.workload.stream import Workload
from deeprecsys.zoo import model
from deeprecsys.zoo.jagged import Ids

SCHEMA = model("dlrm-rmc1-jagged").scaled(1e-3).schema
INPUTS = [i.name for i in SCHEMA.jagged]


def lengths_of(law: str, seed: int = 1) -> np.ndarray:
    """[inputs, rows] of a pool."""
    layout = FeatureLayout.plan(SCHEMA, 20_000, 0, locality="uniform", lookups=law)
    found = layout.lengths(seed)
    return np.stack([found[name] for name in INPUTS])


@pytest.mark.parametrize("law", ["lognormal", "geometric", "equal", "quantiles:0,8,16,24,32"])
def test_lengths_have_the_inputs_mean_and_most(law: str) -> None:
    found = lengths_of(law)
    assert found.min() >= 0
    assert found.max() <= 256
    assert found.mean() == pytest.approx(16, rel=0.03)
    if law == "lognormal":
        assert np.quantile(found, 0.99) >= 80


def test_what_items_have_in_common_is_what_was_asked_for() -> None:
    def alike(law: str) -> float:
        return float(np.mean(np.corrcoef(np.log1p(lengths_of(law)))[0, 1:]))

    assert abs(alike("lognormal:0.8")) < 0.02
    assert 0.4 < alike("lognormal:0.8@0.5") < 0.6
    layout = FeatureLayout.plan(SCHEMA, 100, 1 << 30, 1 << 24, "uniform", "lognormal:0.8@0,0.6")
    found = layout.lengths(1)[INPUTS[0]]
    runs = np.log1p(found[: len(found) // 100 * 100]).reshape(-1, 100)
    assert 0.4 < runs.mean(axis=1).var() / runs.var() < 0.8


def test_a_file_is_its_quantiles(tmp_path: Path) -> None:
    file = tmp_path / "lengths.txt"
    file.write_text("\n".join(str(n) for n in range(33)))
    law = parse(f"file:{file}@0.2")
    assert law.spec.startswith("quantiles:0,0.32,")
    assert parse(law.spec).spec == law.spec
    assert lengths_of(law.spec).mean() == pytest.approx(16, rel=0.02)


@pytest.mark.parametrize(
    ("law", "said"),
    [
        ("heavy", "unknown lookups 'heavy'"),
        ("lognormal:9", "lookups lognormal: sigma: expected a number from 0 to 3, got 9"),
        ("lognormal@0.7,0.7", "at most 1 together, got '0.7,0.7'"),
        ("quantiles:3,1", "two or more rising numbers"),
        ("file:/nowhere", "expected a length on each line"),
    ],
)
def test_lengths_that_cannot_be_are_refused(law: str, said: str) -> None:
    with pytest.raises(InputError, match=said.replace("(", r"\(")):
        lengths_of(law)


def test_a_pool_holds_the_lengths_and_a_stream_counts_them() -> None:
    layout = FeatureLayout.plan(SCHEMA, 50, 0, lookups="lognormal:1@0.2,0.3")
    buffer = bytearray(layout.size)
    layout.fill(buffer, 5)
    views, lengths = layout.views(buffer), layout.lengths(5)
    for i in SCHEMA.jagged:
        ids = views[i.name]
        assert isinstance(ids, Ids)
        np.testing.assert_array_equal(np.diff(ids.begins), lengths[i.name])
        assert ids.values[: ids.begins[-1]].max() < SCHEMA.table(i.table).rows
    work = layout.work(SCHEMA, 5)
    assert work is not None
    workload = Workload.parse("poisson", "normal:30,8,50", seed=2)
    plain = workload.stream(10, queries=300)
    stream = plain._weighed(work)
    np.testing.assert_array_equal(stream.items, plain.size)
    for k in range(0, 300, 50):
        first = int(stream.features[k]) % work.span
        assert first == layout.rows_at(int(stream.features[k]))[INPUTS[0]]
        ids = sum(lengths[name][first : first + stream.items[k]].sum() for name in INPUTS)
        assert stream.size[k] == max(1, round(ids / 160))
        assert work.units(stream.features[k : k + 1], stream.items[k : k + 1]) == stream.size[k]
    np.testing.assert_array_equal(stream.at_share(0.0).size, plain.size)
