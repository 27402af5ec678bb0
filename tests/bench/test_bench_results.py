"""Tests the benchmark suite: comparison of results; the pages' tables are those of the results."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import equikernels as ek
from equikernels import cli

from ..support import ROOT
from ..support.bench_suite import document, machine, module, side_by_side

command, compare, costs, growth, pages, plan, plots, readme, records, report, targets = map(
    module,
    ("command", "compare", "costs", "growth", "pages", "plan", "plots", "readme", "records", "report", "targets"),
)


@pytest.fixture
def compared(tmp_path: Path) -> Callable[..., tuple[str, int]]:
    """The result of ``compare`` for two documents, at 10 %."""

    def run(before: dict[str, Any], after: dict[str, Any]) -> tuple[str, int]:
        (tmp_path / "a.json").write_text(json.dumps(before))
        (tmp_path / "b.json").write_text(json.dumps({"networks": {"net": after}}))
        return compare.compare(tmp_path / "a.json", tmp_path / "b.json", 0.1)

    return run


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
    assert (worse, text.count("10x, 10x | 10 % | both slower |")) == (1, 1)  # the row without a baseline has no ratio
    assert "| net | op | 10 | 13 | +30.0 % |  | 10 % | **worse** |" in text
    text, worse = compared(document(), document(theirs=50.0))  # ours is unchanged
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


def test_what_a_filter_left_out_is_not_compared(compared: Callable[..., tuple[str, int]]) -> None:
    after = {**document(), "training_step_peak_mib": [], "filter": ["net/forward"]}
    text, worse = compared(document(), {**after, "rows": after["rows"][:1]})
    assert (worse, text.count("| net |")) == (0, 1)
    assert compared(document(), {**after, "rows": []})[1] == 1  # wanted, and gone


def test_folders_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Compares each network with itself; networks in only one folder are left out."""
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


def test_results_of_the_machine_that_is_most_like_this_one_are_compared(tmp_path: Path) -> None:
    def results(folder: str, rate: float, ours: float, isa: str = "avx512") -> None:
        (tmp_path / folder).mkdir(parents=True)
        for name, threads in (("alone", 1), ("net", 2)):
            found = {**document(ours), "ceilings": {"multiply_adds_gflops": rate * threads / 2}}
            found["machine"] |= {"isa": isa, "threads": threads}
            (tmp_path / folder / f"{name}.json").write_text(json.dumps(found))

    results("a", 500.0, 10.0), results("a/machines/slow", 200.0, 20.0), results("a/machines/older", 150.0, 30.0, "avx2")
    (tmp_path / "a" / "machines" / "slow" / "alone.json").unlink()  # a network on one thread tells nothing of two
    results("b", 190.0, 20.0), results("c", 450.0, 10.0), results("d", 200.0, 30.0, "avx2")
    for folder, like in (("b", "slow"), ("c", None), ("d", "older")):
        text, worse = compare.compare(tmp_path / "a", tmp_path / folder, 0.1)
        assert worse == 0
        assert [line for line in text.splitlines() if "compared with" in line] == (
            [f"compared with the results of {like}"] if like else []
        )


# --- Ops ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pyg", "scatter"])
def test_baselines_of_ops_agree(name: str) -> None:
    """Values and gradients, in float64; nodes without edges included."""
    pytest.importorskip({"pyg": "torch_geometric", "scatter": "torch_scatter"}[name])
    plain, other = module("baselines.index_add"), module(f"baselines.{name}")
    generator = torch.Generator().manual_seed(0)
    n, edges = 12, 60
    i, j = torch.randint(0, n - 3, (2, edges), generator=generator)
    values, x, weight, nodes = (
        torch.randn(size, width, generator=generator, dtype=torch.float64)
        for size, width in ((edges, 5), (n, 4), (edges, 1), (n, 5))
    )
    of_edges = ("segment_sum", "segment_max", "segment_softmax")
    cases = [(op, (values,), (i, n)) for op in of_edges]
    cases += [("coordinate_update", (x, weight), (i, j)), ("gather_segment_sum", (nodes,), (i, j))]
    for op, inputs, rest in cases:
        results = []
        for module_ in (plain, other):
            leaves = [t.clone().requires_grad_() for t in inputs]
            out = getattr(module_, op)(*leaves, *rest)
            cotangent = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
            results.append([out, *torch.autograd.grad(out, leaves, cotangent)])
        torch.testing.assert_close(*results)


# --- Growth, kernels and plots ------------------------------------------------------------------------------------


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
    """A document of pytest-benchmark; ours runs four copies at once, as on a GPU."""
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
    assert found["left_out"] == [
        "wrong, 100 jets, forward, 2 threads: ours was not measured: wrong results, or not selected"
    ]
    assert json.loads(records.text(found)) == found
    assert "**10x**, 50 % of the roof" in records.table(found)
    assert "float32 where a row names no other" in pages.kernels({"kernels": found})


def test_the_cost_of_an_op_is_beside_the_fastest_baseline() -> None:
    row = {"op": "op, sum", "graph": "100 jets", "pass": "forward", "dtype": "float32", "threads": 2, "bytes": 8}
    row |= {"what": "op", "noise": 0.0, "flops": 1}
    slow = {**row, "equikernels_ms": 0.05, "index_add__ms": 0.5, "ratio": 10.0}
    fast = {**row, "equikernels_ms": 0.05, "PyG_ms": 0.1, "ratio": 2.0}
    other = {**fast, "ratio": 1.0, "dtype": "float64"}
    found = {**machine.machine("kernels", 2), "rows": [slow, fast, other]}
    assert costs.ops({"kernels": found}, "op").endswith("| `op`, sum | 100 jets | 50 us | **2x** (PyG) |")
    found["rows"].append({**slow, "graph": "one jet", "bytes": 4, "pass": "forward and backward"})
    one_jet, many = costs.ops({"kernels": found}, "op").splitlines()[-2:]
    assert one_jet == "| `op`, sum | one jet |  |  | 50 us | **10x** (PyTorch) |"
    assert many == "|  | 100 jets | 50 us | **2x** (PyG) |  |  |"
    assert costs.ops({"kernels": found}, "another") == costs.ops({}, "op") == "Not measured yet."


def test_another_dtype_is_named_and_has_another_roof() -> None:
    content = raw()
    for entry in content["benchmarks"]:
        entry["extra_info"]["dtype"] = "float64"
        entry["extra_info"]["flops"] = 2e8
    content["machine_info"]["document"]["left_out"] = ["a baseline"]
    found = report.document(content)
    (row,) = found["rows"]
    assert row["what"] == "op, 100 jets, forward, 2 threads, float64"
    assert row["fraction_of_roof"] == 2.0  # half as many in a register: 2e8 FLOPs take 4 ms
    assert found["left_out"][0] == "a baseline"
    assert "2 threads, float64 |" in pages.kernels({"kernels": found})


def test_plots_of_what_there_is(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    kernels = report.document(raw())
    growing = {**machine.machine("growth", 2), "rows": curve(2.0)}
    network = {**document(), "network": "pelican_nano"}
    network["rows"][0] |= {"what": "forward, one event of n = 54", "ratio": 0.8}  # a bar that points to the left
    for name, document_ in (("kernels", kernels), ("growth", growing), ("pelican_nano", network)):
        (tmp_path / f"{name}.json").write_text(json.dumps(document_))
    assert all(plot({}) is None for plot in plots.PLOTS.values())
    assert plots.main([str(tmp_path), "--out", str(tmp_path)]) is None
    assert {path.stem for path in tmp_path.glob("*.png")} == {"speedup", "roofline", "growth"}


def test_a_plot_tells_ops_apart() -> None:
    results = pages.load(ROOT)
    marks = plots.marks_of({row["op"] for row in results["kernels"]["rows"]})
    assert len(marks) > 12
    assert len(set(marks.values())) == len(marks)


def test_bars_are_those_of_the_network() -> None:
    """Three for each network that is measured; rows of other sizes and baselines are not shown."""
    results = pages.load(ROOT)
    for name, group in plots.GROUPS.items():
        bars = plots.bars_of(results[name], group)
        assert list(bars) == list(plots.BARS)
        row = records.find(name, results[name], f"forward, {group.large}")
        assert bars["forward"] == (group.large, row["ratio"])


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
    assert "| 25.0x | **77.7x** |" in pages.targets(changed)
    row["ratio"] = 20.0
    assert "| 25.0x | 20.0x, short by 20 % |" in pages.targets(changed)
    assert "| 25.0x | not measured |" in pages.targets({})
    assert pages.numbers({}) == ""


def test_other_sizes() -> None:
    both = side_by_side.row("forward, 16 jets", [0.01] * 2, [0.1] * 2) | {"equikernels_mib": 3.0, "published_mib": 70.0}
    alone = {"what": "forward, 1024 jets", "equikernels_ms": 500.0, "equikernels_mib": 200.0}
    vecnet = {**document(), "network": "vecnet"}
    text = pages.sizes({"vecnet": {**vecnet, "rows": [*vecnet["rows"], both, alone]}})
    assert "forward, 16 jets | 100 ms | 10 ms | **10.0x** | 70 MiB | 3 MiB |" in text
    assert "forward, 1024 jets |  | 500 ms |  |  | 200 MiB |" in text
    assert pages.sizes({"vecnet": vecnet}) == "Not measured yet."


def test_calls_are_a_table_and_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"what": "forward, net, 3 jets", "equikernels_calls": 40, "published_calls": 1234}
    step = {"what": "training step, net, 3 jets", "equikernels_calls": 50, "published_calls": 70}
    found = {**machine.machine("calls", 2), "rows": [row, step]}
    assert "| net, 3 jets | 1,234 | 40 | 70 | 50 |" in pages.calls({"calls": found})
    assert pages.calls({}) == "Not measured yet."
    assert "1,234 calls (published) | 40 calls" in records.table(found)
    for name, calls in (("before", 40), ("more", 46)):
        content = records.text({**found, "rows": [{**row, "equikernels_calls": calls}, step]})
        (tmp_path / f"{name}.json").write_text(content)
    files = [str(tmp_path / f"{name}.json") for name in ("before", "more")]
    assert command.main(["compare", *files]) == 1
    assert "calls | forward, net, 3 jets, against published | 40 | 46 | +15.0 %" in capsys.readouterr().out


def test_a_missing_row_is_named() -> None:
    results = pages.load(ROOT)
    row = records.find("lorentznet", results["lorentznet"], "training step, 100 jets")
    row["what"] = "training step, 7 jets"
    with pytest.raises(LookupError, match=r"lorentznet: 0 rows 'training step, 100 jets' against published; there are"):
        pages.numbers(results)
    with pytest.raises(LookupError, match=r"lorentznet: 0 rows 'training step, 100 jets' against published; there are"):
        pages.targets(results)
    with pytest.raises(LookupError, match="rows of peak memory 'x'"):
        records.find_memory("lorentznet", results["lorentznet"], "x")


def test_a_row_that_not_every_machine_has_is_left_out() -> None:
    results = pages.load(ROOT)
    rows = results["lorentznet"]["rows"]
    results["lorentznet"]["rows"] = [row for row in rows if row["what"] != readme.IN_BFLOAT16]
    assert readme.IN_BFLOAT16 not in pages.numbers(results)
    step = records.find("lorentznet", results["lorentznet"], "training step, 100 jets")
    results["lorentznet"]["rows"].append({**step, "what": readme.IN_BFLOAT16, "ratio": 66.6})
    assert f"| {readme.IN_BFLOAT16} |" in pages.numbers(results)
    assert "**66.6x**" in pages.numbers(results)


def test_a_page_without_its_markers_is_an_error() -> None:
    text = "a\n<!-- t: begin -->\nold\n<!-- t: end -->\nb"
    assert pages.render(text, "t", r"new \1") == "a\n<!-- t: begin -->\nnew \\1\n<!-- t: end -->\nb"
    with pytest.raises(LookupError, match="expected one <!-- u: begin -->"):
        pages.render(text, "u", "new")


def test_all_that_the_pages_show_can_be_measured() -> None:
    """Rows of the README's tables and of the targets have the names of a run."""
    setting = plan.Setting()
    every = {name: plan.names(name, make(setting), setting) for name, make in command.NETWORKS.items()}
    on_cpu = [target for target in targets.CPU if target.network != "kernels" and not target.memory]
    avx512 = "avx2" in ek.available_isas() and ek.active_isa() != "avx2"
    for target in on_cpu:
        if "AVX2 kernels" in target.row and not avx512:
            continue  # there they are those of every row
        against = f", against {target.baseline}" if target.baseline else ""
        assert f"{target.network}/{target.row}{against}" in every[target.network]
    shown = readme.readme_rows(every)
    lines = sum(not line.memory for own in readme.TABLES for line in own.lines) - (not avx512)
    assert len(shown) == lines + 1 + 2 + 3 * len(readme.OTHERS)  # the block alone; peak memory; other networks
    op = "segment_reduce, sum", "two particles", False, 1, "float32"
    assert report._name(op) in {target.row for target in targets.CPU}
