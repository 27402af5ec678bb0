"""The command line, and the demo's refusal to boast where the two sides disagree."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import math
from pathlib import Path

import pytest
import torch

import equikernels as ek
from equikernels import cli, demo
from equikernels.demo import Agreement, Scores, Settings

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
    if ek._native.host is not None:
        assert ek._native.host.build_info()["compiler"] in out


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


def test_entry_point() -> None:
    entries = importlib.metadata.entry_points(group="console_scripts", name="equikernels")
    if not entries:
        pytest.skip("not installed: run from the source tree")
    assert {entry.load() for entry in entries} == {cli.main}


@pytest.mark.slow
def test_demo_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("tqdm")
    assert cli.main(["demo", "--jets", "12", "--output", str(tmp_path), "--threads", "1", "--seed", "3"]) == 0
    out = capsys.readouterr().out
    for expected in (
        "224,072 parameters",
        "12 simulated jets",
        "time per 100 jets",
        "Largest logit difference",
        "1 threads",
    ):
        assert expected in out
    for name in ("event_display.png", "batch_size.png"):
        assert (tmp_path / name).read_bytes().startswith(PNG)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["agrees"] is True
    for side in ("published", "equikernels"):
        assert results[side]["seconds_per_100_jets"] > 0
        assert set(results[side]["sweep"]) == {"1", "3", "10"}
        assert results[side]["peak_bytes"] > 0


def test_peak_memory_is_seen() -> None:
    def peak_of(size: int) -> int:
        resident = demo.memory("VmRSS")
        demo.reset_peak()
        torch.ones(size, dtype=torch.uint8)
        peak = demo.above(resident)
        assert peak is not None
        return peak

    if demo.memory("VmHWM") is None:
        pytest.skip("this system does not tell")
    demo.reset_peak()
    if demo.memory("VmHWM") > demo.memory("VmRSS") + 2**24:  # type: ignore[operator]
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
        return scores(logits + 1.0 if args[0] == "equikernels" else logits)

    monkeypatch.setattr(demo, "in_child", in_child)
    assert cli.main(["demo", "--jets", "20", "--output", str(tmp_path)]) == 1
    assert "DO NOT AGREE" in capsys.readouterr().out
    assert not (tmp_path / "batch_size.png").exists()


def test_agreement_of_rounding_alone() -> None:
    exact = torch.randn(50, 2, dtype=torch.float64)
    single = exact.float()
    assert Agreement.of(single, single.nextafter(torch.full_like(single, 9.0)), exact).holds


def test_both_sides_hold_the_same_weights() -> None:
    ours, published = demo.build("equikernels", 7), demo.build("published", 7)
    assert not ours.training
    assert not published.training
    theirs = published.state_dict()
    assert theirs.keys() == ours.state_dict().keys()
    assert all(torch.equal(theirs[key], value) for key, value in ours.state_dict().items())
    assert not torch.equal(theirs["embedding.weight"], demo.build("published", 8).state_dict()["embedding.weight"])


def test_the_oracle_scores_the_first_jets_as_the_batches_do() -> None:
    jets = demo.load_sample_jets()[:4]
    with torch.inference_mode():
        single = demo.prepare("published", demo.build("published", 0), jets)()
        exact = demo.oracle(Settings(jets=4))
    assert exact.dtype == torch.float64
    torch.testing.assert_close(single.double(), exact, rtol=1e-4, atol=1e-4)
