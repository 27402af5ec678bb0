"""The benchmark suite: what it refuses, what it compares, and that the pages' tables are those of the results."""

from __future__ import annotations

import contextlib
import copy
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import equikernels as ek
from equikernels import cli

ROOT = Path(__file__).parents[1]
clock, command, compare, growth, lorentznet, machine, memory, networks, pages, pelican, plots, records, report = (
    importlib.import_module(f"{cli.bench_package()}.{name}")
    for name in (
        "clock", "command", "compare", "growth", "lorentznet", "machine", "memory", "networks", "pages", "pelican",
        "plots", "records", "report",
    )
)  # fmt: skip
side_by_side, targets, tracking = (
    importlib.import_module(f"{cli.bench_package()}.{name}") for name in ("side_by_side", "targets", "tracking")
)


def document(ours: float = 10.0, theirs: float = 100.0, mib: float = 50.0) -> dict[str, Any]:
    return {
        **machine.machine("net", 2),
        "rows": [
            side_by_side.row("forward", [ours / 1e3] * 3, [theirs / 1e3] * 3),
            {"what": "op", "equikernels_ms": ours},
        ],
        "training_step_peak_mib": [{"what": "process", "equikernels": mib, "published": 500.0, "ratio": 500.0 / mib}],
    }


@pytest.fixture
def compared(tmp_path: Path) -> Callable[..., tuple[str, int]]:
    """What ``compare`` says of two documents, at 10 %."""

    def run(before: dict[str, Any], after: dict[str, Any]) -> tuple[str, int]:
        (tmp_path / "a.json").write_text(json.dumps(before))
        (tmp_path / "b.json").write_text(json.dumps({"networks": {"net": after}}))
        return compare.compare(tmp_path / "a.json", tmp_path / "b.json", 0.1)

    return run


# --- The clock ----------------------------------------------------------------------------------------------------


def test_both_sides_run_in_turn() -> None:
    calls: list[str] = []
    times = side_by_side.interleaved(lambda: calls.append("a"), lambda: calls.append("b"), (2, 3))
    assert "".join(calls) == "ab" + 3 * "aab"
    assert [len(t) for t in times] == [6, 3]


class Stream:
    """Stands for torch.cuda: its clock runs when work is waited for, 3 ms for a call, 100 ms for what flushes."""

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
    """Each call has inputs of its own; what cannot be captured runs in a row, and the result says so."""
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
    """A linear map and the same one, ours of the wrong size by a factor."""

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
    assert max(sides.gradient_errors()) < 1e-5


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
        sides.gradient_errors()


@pytest.mark.skipif(ek._native.host is None, reason="no CPU kernels")
def test_a_refused_network_has_no_row_and_a_status(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(threads: int, quick: bool, device: str) -> dict[str, Any]:
        Scaled(2.0).agree()
        raise AssertionError("not refused")

    networks = {"wrong": wrong, "net": lambda threads, quick, device: document()}
    monkeypatch.setattr(command, "NETWORKS", networks)
    out = tmp_path / "new" / "out.json"
    assert command.main(["--json", str(out), "--results", str(tmp_path / "results")]) == 1
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["net.json"]
    text = capsys.readouterr().out
    assert "REFUSED: logits differ by 1.00e+00" in text
    assert text.count("**10x**") == 1
    written = json.loads(out.read_text())["networks"]
    assert written["wrong"]["rows"] == []
    assert written["net"]["rows"][0]["ratio"] == pytest.approx(10)
    assert command.main(["--filter", "ne"]) == 0


def test_networks_of_both_sides_agree() -> None:
    """One jet: the checks that every run begins with."""
    sides = lorentznet.Sides(1)
    assert sides.agree() < 1e-4
    sides.exact()
    for name in ("egnn", "interaction_network", "pelican_11k", "pelican_nano"):
        assert networks.NETWORKS[name](True).agree() < 1e-4
    assert networks.VecNetSides(growth.events(5, 2)).agree() < 1e-4


def test_nothing_to_measure(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--filter", "resnet"]) == 2
    assert "nothing to measure among lorentznet, pelican, egnn, euclidnet" in capsys.readouterr().err


# --- Two results --------------------------------------------------------------------------------------------------


def test_compare_names_what_became_slower(compared: Callable[..., tuple[str, int]]) -> None:
    assert compared(document(), document())[1] == 0
    text, worse = compared(document(), document(ours=12.0))
    assert worse == 2  # the row with a baseline and the one without
    assert "| net | forward, against published | 10 | 12 | +20.0 % | 10x, 8.33x | 10 % | **worse** |" in text
    assert compared(document(), document(ours=10.9))[1] == 0
    text, worse = compared(document(), document(mib=60.0))
    assert worse == 1
    assert "peak memory of a training step, process" in text


def test_a_slower_machine_is_no_regression_of_a_ratio(compared: Callable[..., tuple[str, int]]) -> None:
    text, worse = compared(document(), document(ours=13.0, theirs=130.0))
    assert worse == 1  # the row without a baseline cannot know
    assert "| net | op | 10 | 13 | +30.0 % |  | 10 % | **worse** |" in text
    text, worse = compared(document(), document(theirs=50.0))  # ours is what it was
    assert (worse, text.count("10x, 5x | 10 % | baseline faster |")) == (0, 1)
    text, worse = compared(document(), document(ours=5.0))
    assert (worse, text.count("| better |")) == (0, 2)


def test_a_row_may_move_by_the_noise_it_was_recorded_with(compared: Callable[..., tuple[str, int]]) -> None:
    noisy = document()
    noisy["rows"][0]["noise"] = 0.3
    text, worse = compared(noisy, document(ours=12.0))
    assert "| 10x, 8.33x | 30 % | within |" in text
    assert worse == 1  # the row without noise
    text, worse = compared(document(), {**noisy, "rows": [{**noisy["rows"][0], "equikernels_ms": 12.0, "ratio": 8.3}]})
    assert worse == 2  # not the noise of the other result; and a row is gone


def test_a_row_that_is_gone_is_worse(compared: Callable[..., tuple[str, int]]) -> None:
    text, worse = compared(document(), {**document(), "rows": [], "refused": "logits differ"})
    assert worse == 2
    assert "| net | op | 10 | gone | | | 10 % | **gone** |" in text
    assert "net: logits differ" in text


def test_compare_says_that_machines_differ(compared: Callable[..., tuple[str, int]]) -> None:
    other = document()
    other["machine"]["threads"] = 1
    assert "net: threads differs: 2 and 1" in compared(document(), other)[0]


def test_status_of_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [str(tmp_path / f"{k}.json") for k in range(3)]
    for name, content in zip(names, (document(), document(ours=12.0), {**document(), "network": "other"}), strict=True):
        Path(name).write_text(json.dumps(content))
    assert cli.main(["bench", "compare", names[0], names[1]]) == 1
    assert "2 worse by more than 10 %" in capsys.readouterr().out
    assert cli.main(["bench", "compare", names[0], names[1], "--threshold", "25"]) == 0
    assert cli.main(["bench", "compare", names[1], names[0]]) == 0
    assert cli.main(["bench", "compare", names[0], names[2]]) == 2
    assert cli.main(["bench", "compare", names[0], "nowhere.json"]) == 2
    (tmp_path / "1.json").write_text("{")
    assert cli.main(["bench", "compare", names[0], names[1]]) == 2
    assert "no network in common: net and other" in capsys.readouterr().err


def test_folders_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each network with its own; those that only one folder holds are left out."""
    for folder, ours in (("a", 10.0), ("b", 12.0)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "net.json").write_text(json.dumps(document(ours)))
        (tmp_path / folder / f"{folder}.json").write_text(json.dumps({**document(), "network": folder}))
    on_gpu = document()
    on_gpu["machine"]["device"] = "cuda"
    (tmp_path / "b" / "gpu_net.json").write_text(json.dumps(on_gpu))
    assert records.documents(tmp_path / "b").keys() == {"b", "net", "net on a GPU"}
    assert cli.main(["bench", "compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 1
    assert "2 worse, 1 within: 2 worse by more than 10 % or their noise" in capsys.readouterr().out


# --- Growth, kernels and plots ------------------------------------------------------------------------------------


def test_growth_leaves_out_what_costs_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "point", lambda call, device: ([1e-3, 2e-3, 3e-3], 1.0))
    monkeypatch.setattr(growth, "MIB", 20.0)  # a point may cost twenty times the one before
    rows, left_out = growth.rows("LorentzNet", (2, 4, 8), (1, 100), "cpu")
    assert [row["what"] for row in rows if row["pass"] == "forward"] == [
        f"LorentzNet, forward, batch 1, n = {n}" for n in (2, 4, 8)
    ] + [f"LorentzNet, forward, batch 100, n = {n}" for n in (2, 4, 8)]
    assert (rows[0]["equikernels_ms"], rows[0]["ratio"], left_out) == (2, 1, [])
    monkeypatch.setattr(growth, "SECONDS", 3.5e-3)
    rows, left_out = growth.rows("LorentzNet", (2, 4), (1,), "cpu")
    assert len(rows) == 2
    assert left_out[0] == "LorentzNet, forward, batch 1, n = 4, equikernels: about 0 s and 4 MiB"
    assert len(left_out) == 4


def curve(power: float) -> list[dict[str, Any]]:
    common = {"network": "PELICAN", "pass": "training step", "batch": 16}
    return [{**common, "what": str(n), "n": n, "equikernels_ms": 3 * n**power, "ratio": 2.0} for n in (10, 20, 50)]


def test_exponents() -> None:
    name = "PELICAN, training step, batch 16, equikernels, time"
    assert growth.exponents(curve(1.5)) == {name: pytest.approx(1.5)}
    assert growth.exponents(curve(1.5)[:2]) == {}
    found = {**machine.machine("growth", 2), "rows": curve(1.5), "left_out": [], "exponents": {name: 1.5}}
    assert "| PELICAN, batch 16 | - | n^1.50 | - | - |" in pages.exponents({"growth": found})


def raw() -> dict[str, Any]:
    """As pytest-benchmark writes it: ours runs four copies at once, as on a GPU."""
    ceilings = {"multiply_adds_gflops": 100.0, "copy_gb_per_s": 10.0}
    op = {"op": "op", "graph": "100 jets", "backward": False, "threads": 2, "dtype": "float32", "flops": 1e8}

    def entry(by: str, seconds: float, calls: int, op: dict[str, Any] = op) -> dict[str, Any]:
        info = {**op, "by": by, "calls": calls, "timed": "graph replay" if calls > 1 else "wall clock", "bytes": 1e7}
        return {"extra_info": info, "stats": {"median": seconds, "iqr": seconds / 10}}

    entries = [entry("equikernels", 8e-3, 4), entry("PyG", 20e-3, 1), entry("PyG", 1e-3, 1, {**op, "op": "wrong"})]
    head = {**machine.machine("kernels", 2), "ceilings": ceilings}
    return {"machine_info": {"document": head}, "benchmarks": entries}


def test_kernels_become_a_document() -> None:
    found = report.document(raw())
    (row,) = found["rows"]
    assert row["what"] == "op, 100 jets, forward, 2 threads"
    assert (row["equikernels_ms"], row["PyG_ms"], row["ratio"], row["timed"]) == (2, 20, 10, "graph replay")
    assert row["fraction_of_roof"] == 0.5  # 1 ms: ten megabytes, or 1e8 FLOPs
    assert found["left_out"] == ["wrong, 100 jets, forward, 2 threads: not measured, as results were wrong"]
    assert json.loads(report.text(found)) == found
    assert "**10x**, 50 % of the roof" in records.table(found)


def test_plots_of_what_there_is(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    kernels = report.document(raw())
    growing = {**machine.machine("growth", 2), "rows": curve(2.0)}
    for name, document_ in (("kernels", kernels), ("growth", growing), ("net", document())):
        assert plots.PLOTS["speedup" if name == "net" else "roofline" if name == "kernels" else name]({}) is None
        (tmp_path / f"{name}.json").write_text(json.dumps(document_))
    assert plots.main([str(tmp_path), "--out", str(tmp_path)]) is None
    assert {path.stem for path in tmp_path.glob("*.png")} == {"speedup", "roofline", "growth"}


# --- The pages ----------------------------------------------------------------------------------------------------


def test_the_pages_are_in_step_with_the_results() -> None:
    assert pages.load(ROOT).keys() >= {"lorentznet"}
    stale = [path.name for path in pages.out_of_step(ROOT)]
    assert not stale, f"{stale}: run `python -m bench.pages` and commit"


def test_another_result_is_another_table() -> None:
    results = pages.load(ROOT)
    changed = copy.deepcopy(results)
    row = records.find("lorentznet", changed["lorentznet"], "forward, 100 jets")
    row["ratio"] = 77.7
    row["noise"] = 0.5
    assert "**77.7x**" in pages.numbers(changed)
    assert "forward, 100 jets (50 %)" in pages.numbers(changed)
    assert "| 77.7x | reached |" in pages.targets(changed)
    assert "| not measured | |" in pages.targets({})
    assert pages.numbers({}) == ""


def test_a_missing_row_is_named() -> None:
    results = pages.load(ROOT)
    row = records.find("lorentznet", results["lorentznet"], "training step, 100 jets")
    row["what"] = "training step, 7 jets"
    with pytest.raises(LookupError, match=r"lorentznet: 0 rows 'training step, 100 jets' against published; there are"):
        pages.numbers(results)
    with pytest.raises(LookupError, match="rows of peak memory 'x'"):
        records.find_memory("lorentznet", results["lorentznet"], "x")


def test_a_page_without_its_markers_is_an_error() -> None:
    text = "a\n<!-- t: begin -->\nold\n<!-- t: end -->\nb"
    assert pages.render(text, "t", r"new \1") == "a\n<!-- t: begin -->\nnew \\1\n<!-- t: end -->\nb"
    with pytest.raises(LookupError, match="expected one <!-- u: begin -->"):
        pages.render(text, "u", "new")


def test_the_rows_of_the_pages_are_those_that_are_measured() -> None:
    """Names that ``measure`` makes from numbers: EuclidNet's and EGNN's edges, the jet of mean multiplicity."""
    edges = sum(event.graph.num_edges for event in ek.data.load_sample_hit_graphs()) * 4
    rows = {target.row for target in targets.CPU}
    assert {f"forward, {edges:,} edges", f"training step, {edges:,} edges"} <= rows
    assert f"forward, {tracking.EDGES:,} edges" in rows
    op = "segment_reduce, sum", "two particles", False, 1, "float32"
    assert report._name(op) in rows
    one = lorentznet.Sides(None)
    lines = {line.what for line in pages.TABLES[0].lines}
    assert f"forward, one jet of {one.x.shape[0] - 2} constituents" in lines


@pytest.mark.skipif(ek._native.host is None, reason="no CPU kernels")
def test_all_of_pelicans_lines_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the clock, the checks and the children replaced: what is left is the names."""
    for owner in (side_by_side, pelican):
        monkeypatch.setattr(owner, "interleaved", lambda *_: ([0.001] * 3, [0.01] * 3))
    for owner in (pelican.Sides, pelican.HepSides, pelican.Layer):
        monkeypatch.setattr(owner, "agree", lambda *_: 0.0)
    monkeypatch.setattr(pelican.Sides, "exact", lambda _: None)
    monkeypatch.setattr(pelican.HepSides, "exact", lambda _: None)
    monkeypatch.setattr(pelican.Sides, "gradient_errors", lambda *_: (0.0, 0.0))
    monkeypatch.setattr(pelican, "ceilings", lambda *_: {"multiply_adds_gflops": 1e3, "copy_gb_per_s": 1e2})
    done = type("Done", (), {"returncode": 0, "stdout": "10 20"})
    monkeypatch.setattr(memory.subprocess, "run", lambda *_, **__: done)
    result = pelican.measure(torch.get_num_threads(), True)
    text = pages.numbers({"pelican": result})
    assert text.count("**10.0x**") == 7
    assert text.count("**1.0x less**") == 2
    assert "| PELICAN, forward, 16 events | 40.0x | 10.0x | short by 75 % |" in pages.targets({"pelican": result})
    assert "(pelican_hep)" in records.table(result)
