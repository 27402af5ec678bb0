"""Tests the benchmark suite: measured, refused and omitted rows."""

from __future__ import annotations

import contextlib
import json
import mmap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import equikernels as ek
from equikernels import cli

from ..support.bench_suite import machine, module, side_by_side

calls, clock, command, growth, lorentznet, memory, networks, pelican, plan, points, records = map(
    module,
    ("calls", "clock", "command", "growth", "lorentznet", "memory", "networks", "pelican", "plan", "points", "records"),
)


# --- The clock ----------------------------------------------------------------------------------------------------


def test_both_sides_run_in_turn() -> None:
    calls: list[str] = []
    times = side_by_side.interleaved(lambda: calls.append("a"), lambda: calls.append("b"), (2, 3))
    assert "".join(calls) == "ab" + 3 * "aab"
    assert [len(t) for t in times] == [6, 3]


class Stream:
    """Replaces torch.cuda: its clock advances on synchronisation, 3 ms for a call, 100 ms for a flush."""

    def __init__(self) -> None:
        self.now, self.log = 0.0, ""

    def Event(self, enable_timing: bool) -> Any:
        stream = self

        class Event:
            def record(self) -> None:
                self.at, stream.log = stream.now, stream.log + "e"

            def elapsed_time(self, end: Any) -> float:
                assert stream.log.endswith("s")
                return end.at - self.at

        return Event()

    def work(self, letter: str, ms: float) -> None:
        self.now, self.log = self.now + ms, self.log + letter

    def synchronize(self) -> None:
        self.log += "s"


def test_a_gpu_is_timed_between_events_after_a_flush() -> None:
    stream = Stream()
    seconds = clock.EventClock(stream, lambda: stream.work("f", 100))(lambda: stream.work("c", 3))
    assert seconds == pytest.approx(3e-3)
    assert stream.log == "sfeces"


def test_copies_do_not_fit_the_cache() -> None:
    rows = torch.zeros(256)  # 1 KiB
    assert clock.copies_beyond(4096, [rows]) == 9
    assert clock.copies_beyond(4096, [rows, rows, "x"]) == 5
    assert clock.copies_beyond(1024, [torch.zeros(10_000)]) == 2
    assert clock.copies_beyond(1 << 30, [rows]) == 64


@pytest.mark.parametrize("capturable", [True, False])
def test_rotated_buffers(capturable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call has its own inputs; a call that cannot be captured runs in a row, and the result reports this."""
    log: list[str] = []

    def capture(graph: Any) -> Any:
        log.append("capture")
        if not capturable:
            raise RuntimeError("no capture\nmore")
        return contextlib.nullcontext()

    stream = SimpleNamespace(wait_stream=lambda other: None)
    fake = SimpleNamespace(
        Stream=lambda: stream,
        current_stream=lambda: stream,
        stream=lambda chosen: contextlib.nullcontext(),
        CUDAGraph=lambda: SimpleNamespace(replay=lambda: log.append("replay")),
        graph=capture,
        synchronize=lambda: log.append("wait"),
        get_device_properties=lambda device: SimpleNamespace(L2_cache_size=1024),
    )
    monkeypatch.setattr(clock.torch, "cuda", fake)
    places: list[int] = []
    inputs = [torch.zeros(256, requires_grad=True), "x"]
    run, copies, how = clock.rotated(lambda t, x: places.append(t.data_ptr()), inputs)
    assert (copies, how) == (3, "graph replay" if capturable else "calls in a row")
    assert len(set(places[:3])) == 3
    assert inputs[0].data_ptr() not in places
    places.clear(), log.clear()
    run()
    assert log == (["replay", "wait"] if capturable else ["wait"])
    assert len(places) == (0 if capturable else 3)


def test_memory_that_a_call_holds() -> None:
    assert memory.allocated(lambda: torch.zeros(1 << 18) + 1) == pytest.approx(2, abs=0.1)


def test_a_step_that_adds_no_page_counts_as_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(memory, "above", lambda _: 0)
    memory.print_peaks(lambda: None, lambda: None)
    assert float(capsys.readouterr().out.split()[0]) * 2**20 == mmap.PAGESIZE


def test_a_child_imports_the_package_that_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("equikernels", "bench"):  # as in a checkout, whose packages are others than the installed ones
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    rows = memory.peaks("pelican_nano", "", 1, True)
    assert all(row["equikernels"] > 0 and row["published"] > 0 for row in rows)
    assert len(rows) == 2


def test_a_row_holds_medians_quartiles_and_extremes() -> None:
    row = side_by_side.row("x", [1.0, 2.0, 3.0, 4.0, 100.0], [30.0] * 2)
    assert (row["equikernels_ms"], row["published_ms"], row["ratio"]) == (3000, 30000, 10)
    assert row["quartiles_ms"] == [[2000, 4000], [30000, 30000]]
    assert row["range_ms"] == [[1000, 100000], [30000, 30000]]
    assert row["noise"] == pytest.approx(2 / 3)
    (warning,) = side_by_side.noisy([row])
    assert "67 %" in warning
    assert side_by_side.noisy([side_by_side.row("x", [1.0, 1.01], [1.0, 1.0])]) == []


def test_the_machine_is_described() -> None:
    found = machine.machine("net", 2)
    assert found["machine"].keys() >= {"cpu", "cpu_mhz", "isa", "threads", "gpu", "gpu_clocks", "load_average"}
    assert found["versions"].keys() == {"torch", "cuda", "equikernels", "python", "compiler"}
    assert found["machine"]["isa"] == ek.active_isa()


# --- Nothing is timed where results differ ------------------------------------------------------------------------


class Scaled(side_by_side.Sides):
    """Two equal linear maps, ours scaled by a wrong factor."""

    def __init__(self, factor: float) -> None:
        self.ours, self.published = nn.Linear(4, 2), nn.Linear(4, 2)
        self.published.load_state_dict(self.ours.state_dict())
        self.x, self.label = torch.randn(8, 4), torch.zeros(8, dtype=torch.long)
        self.factor = factor

    def logits(self, side: str) -> Tensor:
        y = self.model(side)(self.x.to(next(self.model(side).parameters()).dtype))
        return self.factor * y if side == "equikernels" else y


def test_sides_that_agree() -> None:
    sides = Scaled(1.0)
    assert sides.agree() < 1e-6
    assert max(sides.errors()) < 1e-5


@pytest.mark.parametrize("factor", [1.01, float("nan")])
def test_sides_that_do_not_agree_raise(factor: float) -> None:
    with pytest.raises(side_by_side.Disagreement, match="no speed-up"):
        Scaled(factor).agree()


def test_wrong_gradients_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    sides = Scaled(1.0)
    right = sides.gradient
    monkeypatch.setattr(
        sides,
        "gradient",
        lambda side: right(side) * (1.01 if side == "equikernels" and sides.ours.weight.dtype == torch.float32 else 1),
    )
    with pytest.raises(side_by_side.Disagreement, match="no speed-up"):
        sides.errors()


@pytest.mark.skipif(ek._native.cpu_reason is not None, reason="no CPU kernels")
def test_a_refused_network_has_no_row_and_a_status(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log: list[str] = []
    networks = {"wrong": lambda setting: scaled_plan(log, 2.0), "net": lambda setting: scaled_plan(log)}
    monkeypatch.setattr(command, "NETWORKS", networks)
    monkeypatch.setattr(memory, "peaks", lambda *_: [])
    out = tmp_path / "new" / "out.json"
    assert command.main(["--json", str(out), "--results", str(tmp_path / "results")]) == 1
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["net.json"]
    text = capsys.readouterr().out
    assert "REFUSED: logits differ by 1.00e+00" in text
    assert text.count("**10x**") == 2
    assert log == ["check", "check", "forward", "training step, 3 jets"]
    written = json.loads(out.read_text())["networks"]
    assert written["wrong"]["rows"] == []
    assert written["net"]["rows"][0]["ratio"] == pytest.approx(10)
    assert command.main(["--filter", "ne"]) == 0


def test_networks_of_both_sides_agree() -> None:
    """One jet: the checks at the start of every run."""
    sides = lorentznet.Sides(1)
    assert sides.agree() < 1e-4
    sides.exact()
    for name in ("egnn", "interaction_network", "pelican_11k", "pelican_nano"):
        network = networks.NETWORKS[name]
        assert network.sides(*network.quick.arguments).agree() < 1e-4
    assert networks.VecNetSides(growth.events(5, 2)).agree() < 1e-4


def test_calls_through_the_dispatcher_are_counted() -> None:
    x, w = torch.ones(3, requires_grad=True), torch.ones(3)
    assert calls.count(lambda: None) == 0
    assert calls.count(lambda: (x.detach() * w).sum()) == 3  # detach, mul, sum
    assert calls.count(lambda: torch.autograd.grad((x * w).sum(), x)) == 2 + 3  # backward: ones_like, expand, mul
    setting = plan.Setting(1, True)
    (row,) = [row for row in calls.plan(setting).rows if row.what == "forward, Interaction Network, one graph"]
    found = row.measure(row.what)
    assert 0 < found["equikernels_calls"] < found["published_calls"]


def test_nothing_to_measure(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--filter", "resnet"]) == 2
    assert "nothing to measure among lorentznet, pelican, egnn, euclidnet" in capsys.readouterr().err


# --- Rows that are picked -----------------------------------------------------------------------------------------


def scaled_plan(log: list[str], factor: float = 1.0) -> Any:
    """A check, two rows and peak memory; the log says what ran."""

    def measure(what: str) -> dict[str, Any]:
        log.append(what)
        return {**side_by_side.row(what, [0.01] * 3, [0.1] * 3), "left_out": ["published on Mondays"]}

    def steps() -> Any:
        raise AssertionError("a child's")

    def check() -> None:
        log.append("check")
        Scaled(factor).agree()

    rows = [plan.Row(what, measure) for what in ("forward", "training step, 3 jets")]
    return plan.Plan(rows, check, {"n 3": steps}, lambda rows: {"count": len(rows)})


def test_only_rows_that_are_wanted_run() -> None:
    log: list[str] = []
    made = scaled_plan(log)
    found = plan.measure("net", made, plan.Setting(2), ["net/training step", "resnet"])
    assert log == ["check", "training step, 3 jets"]
    assert [row["what"] for row in found["rows"]] == ["training step, 3 jets"]
    assert found["left_out"] == ["training step, 3 jets: published on Mondays"]
    assert (found["count"], found["filter"]) == (1, ["net/training step", "resnet"])
    assert plan.names("net", made, plan.Setting()) == [
        "net/forward, against published",
        "net/training step, 3 jets, against published",
        "net/peak memory of a training step, n 3",
    ]


def test_peak_memory_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], **options: Any) -> Any:
        commands.append(command[2:])
        return SimpleNamespace(returncode=0, stdout="10 20" if "published" in command else "5 8")

    monkeypatch.setattr(memory.subprocess, "run", run)
    found = plan.measure("net", scaled_plan([]), plan.Setting(1, True), ["peak"])
    rest = ["n 3", "--threads", "1", "--quick"]
    child = f"{cli.bench_package()}.child"
    assert commands == [[child, "net", side, *rest] for side in ("equikernels", "published")]
    first, second = found[memory.KEY]
    assert first == {"what": "n 3, process", "equikernels": 5, "published": 10, "ratio": 2}
    assert second["ratio"] == 2.5


def test_the_child_runs_a_step(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    child = module("child")
    made = plan.Plan([], lambda: None, {"": lambda: (Scaled(1.0), Scaled(1.0))})
    monkeypatch.setitem(child.NETWORKS, "egnn", lambda setting: made)
    monkeypatch.setattr("sys.argv", ["child", "egnn", "published", "", "--threads", str(torch.get_num_threads())])
    child.main()
    assert len([float(number) for number in capsys.readouterr().out.split()]) == 2


@pytest.mark.skipif(ek._native.cpu_reason is not None, reason="no CPU kernels")
def test_filters_of_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    log: list[str] = []
    networks = {"net": lambda setting: scaled_plan(log), "wrong": lambda setting: scaled_plan(log, 2.0)}
    monkeypatch.setattr(command, "NETWORKS", networks)
    assert command.main(["--filter", "net/forward", "--filter", "3 jets", "--list"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "net/forward, against published",
        "net/training step, 3 jets, against published",
        "wrong/training step, 3 jets, against published",
    ]
    assert log == []
    assert command.main(["--filter", "training step, 3 jets"]) == 1  # the other network is refused
    assert log == ["check", "training step, 3 jets", "check"]
    text = capsys.readouterr().out
    assert "| training step, 3 jets |" in text
    assert "| forward |" not in text
    assert "REFUSED" in text


def test_networks_have_their_sizes() -> None:
    setting = plan.Setting()
    names = plan.names("euclidnet", networks.plan("euclidnet", setting), setting)
    for what in ("forward", "training step"):
        for size in ("3,508 edges", "80,256 edges"):
            for width in ("", ", H 16", ", H 32"):
                assert f"euclidnet/{what}, {size}{width}, against published" in names
    names = plan.names("vecnet", networks.plan("vecnet", setting), setting)
    assert {f"vecnet/forward, {jets}, against published" for jets in ("1 jet", "16 jets", "1024 jets")} <= {*names}
    quick = plan.names("vecnet", networks.plan("vecnet", plan.Setting(quick=True)), plan.Setting(quick=True))
    assert len(quick) == 5


@pytest.mark.skipif(ek._native.cpu_reason is not None, reason="no CPU kernels")
@pytest.mark.parametrize("network", command.NETWORKS)
def test_every_row_of_a_quick_run_is_made(network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With replaced clocks, checks and child processes: tests sides, names and fields."""

    def interleaved(a: Any, b: Any, *rest: Any) -> Any:
        if network == "taggers":
            a(), b()
        return [0.001] * 3, [0.01] * 3

    def timed(sides: Any, what: str, which: list[str]) -> Any:
        return {side: [1e-3] * 2 for side in which}, dict.fromkeys(which, 1.0)

    limits = {"multiply_adds_gflops": 1e3, "copy_gb_per_s": 1e2}
    calls = dict.fromkeys((side_by_side.OURS, *module("deploy").BASELINES))
    files = SimpleNamespace(prepared=lambda: files, check=lambda: None, calls=calls, edges=2652)
    monkeypatch.setattr(module("deploy"), "Sides", lambda *_: files)
    for owner in ("side_by_side", "lorentznet", "pelican", "taggers", "deploy"):
        monkeypatch.setattr(module(owner), "interleaved", interleaved)
        monkeypatch.setattr(module(owner), "ceilings", lambda *_: limits, raising=False)
    for owner in (side_by_side.Sides, lorentznet.Sides, pelican.Sides, pelican.Layer):
        for check, result in (("agree", 0.0), ("errors", (0.0, 0.0)), ("exact", None)):
            monkeypatch.setattr(owner, check, lambda *_, result=result: result, raising=False)
    monkeypatch.setattr(points, "timed", timed)
    monkeypatch.setattr(lorentznet, "median", lambda *_: 0.001)
    monkeypatch.setattr(lorentznet, "same", lambda *_: 0.0)
    monkeypatch.setattr(memory, "peaks", lambda *_: [{"what": "process"}])
    setting = plan.Setting(torch.get_num_threads(), quick=True)
    whole = command.NETWORKS[network](setting)
    found = plan.measure(network, whole, setting)
    made = [name.removeprefix(f"{network}/") for name in plan.names(network, whole, setting)]
    peaks = [name for name in made if name.startswith(memory.TITLE)]
    assert [records.name_of(row) for row in found["rows"]] == [name for name in made if name not in peaks]
    assert len(found[memory.KEY]) == len(peaks)
    assert found["left_out"] == []
    assert "filter" not in found
    assert json.loads(records.text(found)) == found
    assert {row.get("threads", found["machine"]["threads"]) for row in found["rows"]} <= {found["machine"]["threads"]}


@pytest.mark.parametrize("gradients", [False, True])
def test_a_point_is_compared_before_it_is_timed(gradients: bool) -> None:
    costs = points.Costs(lambda: Scaled(1.0), 8)
    measure = points.point(lambda: Scaled(1.0), "training step", 8, costs, gradients, n=3)
    entry = measure("x")
    assert entry.keys() >= {"what", "equikernels_ms", "published_mib", "ratio", "n", "noise"}
    assert entry["left_out"] == []
    wrong = points.point(lambda: Scaled(2.0), "forward", 8, costs)
    with pytest.raises(side_by_side.Disagreement):
        wrong("x")
