"""Tests that the README's code runs, and that names in the documentation exist."""

from __future__ import annotations

import re
from functools import reduce
from pathlib import Path

import pytest
import torch

import equikernels as ek
from equikernels import _triton
from equikernels.backend import KERNELS
from equikernels.export import TAKES_ANY_SIZE

from .support import ROOT

README = (ROOT / "README.md").read_text()
PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "CHANGELOG", "CONTRIBUTING")),
    *sorted((ROOT / "docs").rglob("*.md")),
]


def blocks_of(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def headings_of(text: str) -> set[str]:
    """The anchors of a page's headings."""
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


BLOCKS = blocks_of(README)


def test_the_quick_start_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert BLOCKS
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for number, block in enumerate(BLOCKS):
        exec(compile(block, f"README block {number}", "exec"), names)
    assert "pairwise_invariants" in capsys.readouterr().out
    score, graph, moved = names["score"], names["graph"], names["moved"]
    assert score.shape == (100,)  # type: ignore[attr-defined]
    assert 0 <= score.min() <= score.max() <= 1  # type: ignore[attr-defined]
    assert moved.shape == (graph.num_nodes, 4)  # type: ignore[attr-defined]


def test_the_code_about_fused_models_runs(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    for number, block in enumerate(blocks_of((ROOT / "docs" / "fuse.md").read_text())):
        exec(compile(block, f"fuse.md block {number}", "exec"), names)
    printed = [line.removeprefix("# ") for line in capsys.readouterr().out.splitlines()]
    assert printed == ["fused: LGEBs.0, LGEBs.1, ..., LGEBs.5 [6] (LorentzNet block)"]
    assert type(names["egnn"].gcl_0).__name__ == "E_GCL"  # type: ignore[attr-defined]


def test_the_code_about_training_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for number, block in enumerate(blocks_of((ROOT / "docs" / "training.md").read_text())):
        exec(compile(block, f"training.md block {number}", "exec"), {})
    assert "parameters" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(not TAKES_ANY_SIZE, reason="packaging needs PyTorch 2.13")
def test_the_code_about_deployment_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for number, block in enumerate(blocks_of((ROOT / "docs" / "deployment.md").read_text())):
        exec(compile(block, f"deployment.md block {number}", "exec"), names)
    assert capsys.readouterr().out.split() == [ek.deploy.cmake_prefix_path()]
    jets, model = ek.data.load_sample_jets()[:100], ek.load_pretrained("lorentznet-top")
    x, ptr, is_beam = ek.data.with_beams(jets.p4.double(), jets.ptr)
    with torch.inference_mode():
        expected = model(x, ek.data.top_tagging_scalars(x, is_beam), ptr).softmax(1)[:, 1]
    torch.testing.assert_close(names["score"], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_name_exists(page: Path) -> None:
    names = set(re.findall(r"\bek((?:\.\w+)+)", page.read_text()))
    if page.name == "README.md":
        assert len(names) > 10
    for name in names:
        reduce(getattr, name.strip(".").split("."), ek)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in headings_of(text)
        else:
            assert (page.parent / target.partition("#")[0]).exists()


def test_the_table_of_ops_is_true() -> None:
    table: dict[str, list[str]] = {}
    for row in re.findall(r"^\| (`ek\..*) \|$", README, re.MULTILINE):
        names, _, cpu, cuda = row.split(" | ")
        table |= {name: [cpu, cuda] for name in re.findall(r"`ek\.(\w+)`", names)}
    assert table.keys() == {name for name in ek.backends() if hasattr(ek, name)}
    for name, (cpu, cuda) in table.items():
        assert ("cpu" in KERNELS[name]) == (cpu != "reference"), name
        own = cuda not in ("reference", "made of other ops")
        assert ("cuda" in KERNELS[name] or name in _triton.KERNELS) == own, name
        assert ("cuda" not in KERNELS[name] and own) == cuda.startswith("Triton"), name
