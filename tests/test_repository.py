"""Checks the files around the package against each other: workflows, cibuildwheel, versions, templates."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

import equikernels as ek

from .support import ROOT

yaml = pytest.importorskip("yaml")
if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
CIBUILDWHEEL = PYPROJECT["tool"]["cibuildwheel"]
TARGETS = set(re.findall(r"^([a-z][\w-]*):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE))


def jobs(workflow: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(workflow.read_text())["jobs"]
    return found


def commands(workflow: Path) -> str:
    return "\n".join(step["run"] for job in jobs(workflow).values() for step in job.get("steps", ()) if "run" in step)


def test_there_is_a_workflow_for_each_task() -> None:
    assert {path.stem for path in WORKFLOWS} == {"tests", "wheels", "docs", "release"}
    said = "\n".join(commands(workflow) for workflow in WORKFLOWS)
    for command in ("make lint", "make test", "make docs", "cibuildwheel"):
        assert command in said


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_may_read_and_no_more_unless_a_job_says_so(workflow: Path) -> None:
    assert yaml.safe_load(workflow.read_text())["permissions"] == {"contents": "read"}
    given = {name: job["permissions"] for name, job in jobs(workflow).items() if "permissions" in job}
    expected = {
        "release": {"publish": {"id-token": "write"}},
        "docs": {"publish": {"pages": "write", "id-token": "write"}},
    }
    assert given == expected.get(workflow.stem, {})
    assert "secrets." not in workflow.read_text()


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_jobs_end_and_actions_are_of_a_named_version(workflow: Path) -> None:
    for name, job in jobs(workflow).items():
        if "uses" in job:
            assert (ROOT / job["uses"]).is_file()
            continue
        assert job["timeout-minutes"] <= 180, name
        for step in job["steps"]:
            assert re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|release/v1)", step.get("uses", "a/b@v1")), step
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False


@pytest.mark.parametrize("page", [*WORKFLOWS, ROOT / "CONTRIBUTING.md", ROOT / "README.md", ROOT / ".ci" / "run"])
def test_targets_and_scripts_that_are_named_exist(page: Path) -> None:
    text = page.read_text()
    for words in re.findall(
        r"(?:^|`|run: |\s)make ((?:[a-z][a-z-]*\b(?![=/.]) ?)+)(?=$|[`A-Z\s#])", text, re.MULTILINE
    ):
        assert set(words.split()) <= TARGETS, words
    for script in re.findall(r"\btools/\w+\.sh", text):
        assert (ROOT / script).is_file()


def test_a_release_is_one_version_everywhere() -> None:
    assert f"\nversion: {ek.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    text = (ROOT / "CHANGELOG.md").read_text()
    title, coming, latest = re.split(r"^## (?=\[)", text, flags=re.MULTILINE)[:3]
    assert title.startswith("# Changelog\n")
    assert coming.startswith("[Unreleased]\n")
    assert f"version is {ek.__version__}.\n" in coming or latest.startswith(f"[{ek.__version__}] - ")


def test_the_changelog_keeps_to_its_convention() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.*)$", text, re.MULTILINE)) <= kinds
    for title in re.findall(r"^## (.*)$", text, re.MULTILINE)[1:]:
        assert re.fullmatch(r"\[\d+\.\d+\.\d+\] - (\d{4}-\d\d-\d\d|not released)", title)


def test_wheels_are_built_for_the_promised_systems() -> None:
    strategy = jobs(ROOT / ".github" / "workflows" / "wheels.yml")["wheel"]["strategy"]
    assert {re.sub(r"-[\d.]+", "", runner) for runner in strategy["matrix"]["runner"]} == {
        "ubuntu",
        "ubuntu-arm",
        "macos",
    }
    images = {CIBUILDWHEEL["linux"][f"manylinux-{machine}-image"] for machine in ("x86_64", "aarch64")}
    assert images == {"manylinux_2_28"}
    oldest = PYPROJECT["project"]["requires-python"].removeprefix(">=").replace(".", "")
    assert CIBUILDWHEEL["build"][0] == f"cp{oldest}-*", "the first Python builds the wheel, which later ones share"
    assert f'"cp{oldest}"' in (ROOT / "setup.py").read_text()


def test_every_wheel_runs_the_core_tests() -> None:
    assert "@tests/core.txt" in CIBUILDWHEEL["test-command"]
    assert "@tests/core.txt" in (ROOT / "tools" / "check_wheel.sh").read_text()
    for line in (ROOT / "tests" / "core.txt").read_text().splitlines():
        file, _, test = line.partition("::")
        assert f"\ndef {test}" in (ROOT / file).read_text(), line


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_issue_forms_ask_for_something(form: Path) -> None:
    content = yaml.safe_load(form.read_text())
    if form.stem == "config":
        assert content == {"blank_issues_enabled": True}
        return
    assert {"name", "description", "body"} <= content.keys()
    ids = [field["id"] for field in content["body"]]
    assert len(ids) == len(set(ids))
    assert any(field.get("validations", {}).get("required") for field in content["body"])
