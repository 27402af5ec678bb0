"""Tests the documentation: its pages, their links, their code, the API that they show, and how docstrings are read."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import re
import shutil
import subprocess
from functools import cache, reduce
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml

import equikernels as ek

from .support import ROOT
from .test_readme import blocks_of, headings_of

DOCS = ROOT / "docs"
PAGES = {path.relative_to(DOCS).as_posix(): path.read_text() for path in sorted(DOCS.rglob("*.md"))}
CONFIG: dict[str, Any] = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
# Pages whose code has tests of its own, because it needs files or prints what is compared.
ELSEWHERE = {"data.md", "deployment.md", "fuse.md", "training.md"}
EXAMPLES = [page for page, text in PAGES.items() if blocks_of(text) and page not in ELSEWHERE]
OBJECTS = {name: page for page, text in PAGES.items() for name in re.findall(r"^::: (\S+)$", text, re.MULTILINE)}
SHAPE = re.compile(r"^(?: {4})?(\w+) = .*  # \[(\d+(?:, \d+)*)\]", re.MULTILINE)


@cache
def rst() -> ModuleType:
    """tools/site/rst.py, which is not part of the package."""
    spec = importlib.util.spec_from_file_location("rst", ROOT / "tools" / "site" / "rst.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def leaves(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [page for part in (nav.values() if isinstance(nav, dict) else nav) for page in leaves(part)]


def read(text: str) -> str:
    """A docstring as Markdown; links as their names."""
    return rst().markdown(text, lambda name: f"`{name}`")


# --- Pages --------------------------------------------------------------------------------------------------------


def test_the_navigation_names_every_page() -> None:
    pages = leaves(CONFIG["nav"])
    assert sorted(pages) == sorted(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_links_to_other_pages_lead_to_a_heading(page: str) -> None:
    for target, anchor in re.findall(r"\]\(([\w./-]*\.md)#([\w-]+)\)", PAGES[page]):
        assert anchor in headings_of(((DOCS / page).parent / target).read_text()), f"{target}#{anchor}"


@pytest.mark.parametrize("page", PAGES)
def test_parts_of_other_files_exist(page: str) -> None:
    for what, file, title in re.findall(r"<!-- (all|section|table) of ([\w.]+)(?:: (.+?))? -->", PAGES[page]):
        text = (ROOT / file).read_text()
        assert (what == "all") == (not title)
        assert not title or f"\n## {title}\n" in text


@pytest.mark.parametrize("page", EXAMPLES)
def test_the_code_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page one after another; a comment "[2, 3]" behind an assignment is the shape of its value."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    for number, block in enumerate(blocks_of(PAGES[page])):
        exec(compile(block, f"{page} block {number}", "exec"), names)
        for name, shape in SHAPE.findall(block):
            assert list(names[name].shape) == json.loads(f"[{shape}]"), f"{page}: {name}"


# --- API ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OBJECTS)
def test_what_a_page_shows_exists(name: str) -> None:
    module, rest = name.split("."), []
    while module:
        try:
            found = importlib.import_module(".".join(module))
            break
        except ModuleNotFoundError:
            rest.insert(0, module.pop())
    assert reduce(getattr, rest, found).__doc__


def test_every_public_name_has_a_place() -> None:
    shown = {name.rsplit(".", 1)[1] for name in OBJECTS if name.count(".") == 1}
    public = {name for name in ek.__all__ if not isinstance(getattr(ek, name), ModuleType | str)}
    assert public - shown == set()
    for module in (ek.nn, ek.models, ek.data):
        there = {name for name in vars(module) if name[0].isupper() and isinstance(getattr(module, name), type)}
        assert there - {name.rsplit(".", 1)[1] for name in OBJECTS} == set(), module.__name__


def test_every_op_is_on_a_page_of_ops() -> None:
    shown = {name.rsplit(".", 1)[1] for name, page in OBJECTS.items() if page.startswith("ops/")}
    assert {name for name in ek.backends() if hasattr(ek, name)} - shown == set()


# --- Docstrings ---------------------------------------------------------------------------------------------------


def test_roles_and_signs() -> None:
    text = "See :func:`pack`, [*, C] and ``a * b``: ||x||^2 < 1, a \\|z\\|, **bold**, :math:`x_i^*`."
    assert read(text) == "See `pack`, [\\*, C] and ``a * b``: ||x||^2 &lt; 1, a |z|, **bold**, $x_i^*$."


def test_formulas() -> None:
    assert read(".. math:: a\n          + b\n\nText.").split() == ["$$", "a", "+", "b", "$$", "Text."]
    assert r"\begin{aligned} a &= b \\ c &= d \end{aligned}" in read(".. math::\n    a &= b \\\\\n    c &= d")


def test_items_of_several_names() -> None:
    text = "Sums.\n\nArgs:\n    x, y: [n, C],\n        any.\n    z: [n].\n\nReturns:\n    [n]: a sum.\n"
    args = "Args:\n    x: [n, C],\n        any.\n    y: as ``x``.\n    z: [n].\n"
    assert read(text).strip() == f"Sums.\n\n{args}\nReturns:\n    [n]&#58; a sum."


def test_tables_definitions_and_doctests() -> None:
    table = "Names:\n\n== =====\na  b\n== =====\n1  2 * 3\n== =====\n"
    assert "| a | b |\n|---|---|\n| 1 | 2 \\* 3 |" in read(table)
    assert '"sum"\n:   all of it\n    and more.' in read('Kinds:\n\n"sum"\n    all of it\n    and more.\n')
    assert "```python\nx = 2 * 3\n```" in read(">>> x = 2 * 3\n")


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_katex_sets_every_formula() -> None:
    formulas = []
    for path in sorted((ROOT / "equikernels").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and (text := ast.get_docstring(node)):
                formulas += re.findall(r"^ *\$\$\n(.*?)\n *\$\$$", read(text), re.MULTILINE | re.DOTALL)
    assert len(formulas) > 20
    code = f"""
        const katex = require({str(DOCS / "katex" / "katex.min.js")!r});
        for (const formula of {json.dumps(formulas)}) katex.renderToString(formula, {{displayMode: true}});
    """
    done = subprocess.run(["node", "-e", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
