"""The benchmark behind Envoy: nodes, proxies, a kill, and what is counted."""

from __future__ import annotations

import pytest

from benchmarks.harness import Run
from benchmarks.serve import envoy

pytest.importorskip("envoy")


@pytest.mark.live
def test_no_query_is_lost_when_a_node_behind_envoy_is_killed() -> None:
    found = envoy.run(Run("serve_envoy", envoy.BENCHMARK._options(["--quick"])))
    assert found["hit"]["offered"] > 50
    assert found["hit"]["other"] == found["hit"]["wrong"] == 0
    assert found["hit"]["served"] > 0.5 * found["hit"]["offered"], "one of two nodes goes on"
    assert found["headroom"] < 1
