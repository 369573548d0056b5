"""`--gpu` as a user meets it: labelled as emulated everywhere, bounded by two pools, tuned in both knobs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Answered, Refused, call, write_profile

LABEL = "the accelerator is emulated (GTX 1080 Ti)"


@pytest.fixture
def cpu(tmp_path: Path) -> Path:
    return write_profile(tmp_path / "cpu.json", 1e-3, 5e-5)


def test_a_simulated_published_device_is_labelled_and_held_against_two_pools(cpu: Path, answered: Answered):
    args = ["simulate", "--profile", str(cpu), "--workers", "4", "--rate", "300", "--queries", "3000",
            "--sla-ms", "100", "--batch-size", "64"]  # fmt: skip
    alone = answered(*args)
    doc = answered(*args, "--gpu", "emulated:gtx-1080-ti", "--offload-above", "300")
    assert "two_pools_qps" not in alone["bounds"]
    assert doc["emulated"] is True
    assert (doc["gpu"]["device"], doc["gpu"]["emulated"]) == ("GTX 1080 Ti", True)
    assert doc["workers"] == {"cpu": 4, "gpu": 1}
    assert doc["fraction_of_bound"]["bound"] == "two_pools"
    assert doc["bounds"]["two_pools_qps"] > alone["bounds"]["capacity_qps"]
    assert 0 < doc["gpu_share"] < 1


def test_text_and_page_say_that_it_is_emulated(cpu: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "run"
    status = call("simulate", "--profile", str(cpu), "--workers", "2", "--rate", "100", "--queries", "500",
                  "--gpu", "emulated:gtx-1080-ti", "--offload-above", "300", "--out", str(out))  # fmt: skip
    said = capsys.readouterr().out
    assert status == 0
    assert LABEL in said
    assert "emulated GTX 1080 Ti" in said.splitlines()[0]
    assert LABEL in (out / "report.html").read_text()
    assert LABEL in (out / "report.txt").read_text()


@pytest.mark.live
def test_a_live_trial_is_labelled_and_says_what_the_accelerator_took(cpu: Path, answered: Answered):
    doc = answered("bench", "ncf", "--rows-scale", "0.001", "--engine", "wait:1,0.01", "--workers", "1",
                   "--rate", "40", "--queries", "60", "--gpu", f"emulated:{cpu}", "--offload-above", "100",
                   "--sla-ms", "500")  # fmt: skip
    assert doc["emulated"] is True
    assert doc["served"] == 1.0
    assert doc["extra"]["devices"]["gpu"]["items"] > 0


@pytest.mark.alone
@pytest.mark.parametrize(("method", "budget"), [("live", "2"), ("model", "2")])
def test_tune_with_an_emulated_accelerator_is_labelled_and_keeps_to_what_it_ran(
    tmp_path: Path, answered: Answered, method: str, budget: str
):
    cpu = write_profile(tmp_path / "cpu.json", 1e-3, 5e-5)
    gpu = write_profile(tmp_path / "gpu.json", 3e-3, 1e-6)
    doc = answered("tune", "ncf", "--rows-scale", "0.001", "--workers", "1", "--sla-ms", "60",
                   "--profile", str(cpu), "--gpu", f"emulated:{gpu}", "--method", method,
                   "--sizes", "normal:100,60,300", "--budget", budget)  # fmt: skip
    tuned = doc["tuned"]
    assert (doc["method"], doc["emulated"], doc["gpu"]["emulated"]) == (method, True, True)
    assert doc["bounds"]["two_pools_qps"] > doc["bounds"]["capacity_qps"]
    told = [(c["policy"], c["batch_size"], c["offload_above"]) for c in doc["candidates"]]
    assert (tuned["policy"], tuned["batch_size"], tuned["offload_above"]) in told
    by_state = tuned["policy"] == "earliest"  # which device takes a query is decided as it comes
    assert (tuned["gpu_share"] is None) == by_state
    assert by_state or tuned["gpu_share"] == pytest.approx(0.0) or tuned["offload_above"] is not None
    if method == "model":
        assert tuned["met"]
        assert (doc["search"]["queries"], doc["search"]["simulated"]["queries"] > 0) == (0, True)
        # The accelerator takes a query in half the worker's time.
        assert by_state or tuned["gpu_share"] > 0.5
        assert doc["ratio"] > 1.5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("emulated:gtx1080ti", "did you mean 'gtx-1080-ti'"),
        ("emulated:/nowhere.json", "emulated:/nowhere.json: expected a latency profile"),
        ("cdua", "did you mean 'cuda'"),
    ],
)
def test_a_device_that_cannot_be_gets_one_line(refused: Refused, cpu: Path, text: str, said: str):
    assert said in refused("bench", "ncf", "--rate", "10", "--gpu", text)
    assert said in refused("simulate", "--profile", str(cpu), "--gpu", text)


def test_a_real_device_cannot_be_simulated_without_its_profile(refused: Refused, cpu: Path):
    assert "--gpu: expected emulated:FILE" in refused("simulate", "--profile", str(cpu), "--gpu", "cuda")


def test_a_device_of_another_model_is_refused(refused: Refused, cpu: Path, tmp_path: Path):
    other = write_profile(tmp_path / "other.json", 1e-3, 1e-5, model="wnd")
    said = refused("simulate", "--profile", str(cpu), "--gpu", f"emulated:{other}", "--rate", "10")
    assert "expected a profile of ncf, got one of wnd" in said
