"""Tests the command line; the demo prints no speed-up if the two sides disagree."""

from __future__ import annotations

import importlib.util
import json
import math
import runpy
from pathlib import Path

import pytest
import torch

import equikernels as ek
from equikernels import cli, demo, process
from equikernels.demo import Agreement, Scores, Settings

from .support import ROOT

PNG = b"\x89PNG\r\n\x1a\n"


def scores(logits: torch.Tensor, seconds: float = 1.0, peak: int | None = 2**20) -> Scores:
    return Scores(logits, [seconds] * 3, peak=peak, sweep={1: (seconds / 100, peak), 100: (seconds, peak)})


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(200, 2)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"equikernels {ek.__version__}\n"


def test_info_names_what_a_bug_report_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info"]) == 0
    out = capsys.readouterr().out
    for expected in (ek.__version__, torch.__version__, ek.active_isa(), str(ek.backends()), "torch threads"):
        assert expected in out
    for value in (*ek._native.build_info().values(), ek._native.cpu_features()):
        assert value in out


@pytest.mark.parametrize("arguments", [[], ["dmeo"], ["demo", "--jets", "0"], ["demo", "--threads", "x"]])
def test_wrong_arguments_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    assert "usage: equikernels" in capsys.readouterr().err


def test_demo_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert cli.main(["demo"]) == 2
    assert 'pip install "equikernels[demo]"' in capsys.readouterr().err


def test_a_process_that_the_command_spawns_does_not_run_it_again() -> None:
    """multiprocessing reads the script of the parent under this name."""
    assert "main" not in runpy.run_path(str(ROOT / "bin" / "equikernels"), run_name="__mp_main__")


@pytest.mark.slow
def test_demo_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("tqdm")
    assert cli.main(["demo", "--jets", "12", "--output", str(tmp_path), "--threads", "1", "--seed", "3"]) == 0
    out = capsys.readouterr().out
    for expected in (
        "lorentznet-top, trained",
        "1/eps_B at eps_S = 0.3",
        "224,072 parameters",
        "48,482 parameters",
        "12 simulated jets",
        "time per 100 jets",
        "Largest logit difference",
        "1 threads",
    ):
        assert expected in out
    for name in ("event_display", "roc", "scores", "batch_size_tagger", "batch_size_lorentznet", "batch_size_pelican"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(PNG)
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results) == ["Tagger", "LorentzNet", "PELICAN"]
    for result in results.values():
        assert result["agrees"] is True
        for side in ("published", "equikernels"):
            assert result[side]["jets"] == 12
            assert result[side]["seconds_per_100_jets"] > 0
            assert set(result[side]["sweep"]) == {"1", "3", "10"}
            assert result[side]["peak_bytes"] > 0
    header, *rows = (tmp_path / "scores.csv").read_text().splitlines()
    assert header == "jet,label,Tagger,LorentzNet,PELICAN"
    assert [row.split(",")[0] for row in rows] == [str(k) for k in range(12)]
    jets = demo.load_sample_jets()[:12]
    assert [int(row.split(",")[1]) for row in rows] == jets.label.tolist()
    with torch.inference_mode():
        logits = demo.prepare("PELICAN", "equikernels", demo.build("PELICAN", "equikernels", 3), jets)()
    for row, expected_score in zip(rows, logits.softmax(1)[:, 1].tolist(), strict=True):
        assert float(row.split(",")[4]) == pytest.approx(expected_score, abs=2e-6)


def test_peak_memory_is_seen() -> None:
    def peak_of(size: int) -> int:
        resident = process.memory("VmRSS")
        process.reset_peak()
        torch.ones(size, dtype=torch.uint8)
        peak = process.above(resident)
        assert peak is not None
        return peak

    if process.memory("VmHWM") is None:
        pytest.skip("this system does not tell")
    process.reset_peak()
    if process.memory("VmHWM") > process.memory("VmRSS") + 2**24:  # type: ignore[operator]
        pytest.skip("this system does not reset the mark")
    assert 0.9 * 2**28 < peak_of(2**28) < 1.2 * 2**28
    assert peak_of(2**10) < 2**26


def test_speed_up_of_results_that_agree(logits: torch.Tensor) -> None:
    ours = logits + 1e-7
    text, agrees = demo.report(scores(logits, 3.0, 2**30), scores(ours, 1.0, 2**28), logits[:50].double(), Settings())
    assert agrees
    assert "3.0x faster" in text
    assert "4.0x less" in text


def test_slower_is_called_slower(logits: torch.Tensor) -> None:
    text, agrees = demo.report(scores(logits, 1.0), scores(logits, 2.0), logits[:50].double(), Settings())
    assert agrees
    assert "2.0x slower" in text
    assert "faster" not in text


@pytest.mark.parametrize(
    ("row", "error"),
    [(3, 1e-4), (150, 1e-2), (3, math.nan), (150, math.nan)],
    ids=["against float64", "between the two", "nan", "nan later"],
)
def test_no_speed_up_without_agreement(logits: torch.Tensor, row: int, error: float) -> None:
    ours = logits.clone()
    ours[row] += error
    text, agrees = demo.report(scores(logits, 3.0), scores(ours, 1.0), logits[:50].double() + 1e-7, Settings())
    assert not agrees
    assert "DO NOT AGREE" in text
    assert "faster" not in text
    assert "less" not in text


def test_disagreement_is_an_error_status(
    logits: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")

    def in_child(function: object, *args: object) -> object:
        if function is demo.oracle:
            return logits[:50].double()
        return scores(logits + 1.0 if args[:2] == ("LorentzNet", "equikernels") else logits)

    monkeypatch.setattr(demo, "in_child", in_child)
    # One network that disagrees is enough; the other is still compared.
    assert cli.main(["demo", "--jets", "200", "--output", str(tmp_path)]) == 1
    assert "DO NOT AGREE" in capsys.readouterr().out
    assert not (tmp_path / "batch_size_lorentznet.png").exists()
    assert (tmp_path / "batch_size_pelican.png").exists()


def test_agreement_of_rounding_alone() -> None:
    exact = torch.randn(50, 2, dtype=torch.float64)
    single = exact.float()
    assert Agreement.of(single, single.nextafter(torch.full_like(single, 9.0)), exact).holds


def test_a_formula_too_slow_for_all_jets_is_compared_on_the_first(logits: torch.Tensor) -> None:
    ours = scores(logits + 1e-7)
    ours.seconds = [1.0, 1.0, 1.0, 50.0, 50.0, 50.0, 50.0]
    text, agrees = demo.report(scores(logits[:60], 3.0), ours, logits[:20].double(), Settings())
    assert agrees
    assert "3.0x faster" in text
    assert "over 60 jets" in text


@pytest.mark.parametrize("name", demo.NETWORKS)
def test_both_sides_hold_the_same_weights(name: str) -> None:
    ours, published = demo.build(name, "equikernels", 7), demo.build(name, "published", 7)
    assert not ours.training
    assert not published.training
    theirs = published.state_dict()
    assert theirs.keys() == ours.state_dict().keys()
    assert all(torch.equal(theirs[key], value) for key, value in ours.state_dict().items())
    if name == "Tagger":  # which is trained
        return
    other = demo.build(name, "published", 8).state_dict()
    assert any(not torch.equal(theirs[key], value) for key, value in other.items())


@pytest.mark.parametrize("name", demo.NETWORKS)
def test_the_oracle_scores_the_first_jets_as_the_batches_do(name: str) -> None:
    jets = demo.load_sample_jets()[:4]
    with torch.inference_mode():
        single = demo.prepare(name, "published", demo.build(name, "published", 0), jets)()
        exact = demo.oracle(name, Settings(jets=4))
    assert exact.dtype == torch.float64
    torch.testing.assert_close(single.double(), exact, rtol=1e-4, atol=1e-4)
