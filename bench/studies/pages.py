"""Writes the tables and figures of docs/equivariance.md from bench/results/studies/*.json; trains nothing.

python -m bench.studies.pages            (--check: only reports, by its status, whether the tables are current)
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ..pages import render
from ..records import machine_line
from .command import STUDIES
from .study import Results, Study
from .workers import minutes

PAGE = Path("docs") / "equivariance.md"
RESULTS = Path("bench") / "results" / "studies"


def figure(name: str) -> Path:
    """Of a study, beside the page."""
    return PAGE.parent / f"study_{name}.png"


def load(root: Path) -> dict[str, Results]:
    """Study -> its committed results, of those that were run."""
    paths = {name: root / RESULTS / f"{name}.json" for name in STUDIES}
    return {name: Results(json.loads(path.read_text())) for name, path in paths.items() if path.is_file()}


def section(study: Study, results: Results | None) -> str:
    """What stands between a study's markers."""
    if results is None:
        return f"Not run yet: `equikernels study {study.name} --quick`."
    document = results.document
    records = document["records"].values()
    took = minutes(sum(record["seconds"] for record in records))
    trainings = sorted({len(numbers) for numbers in results.groups.values()})
    repeated = " or ".join(map(str, trainings))
    unfinished = "" if complete(study, results) else " **Stopped before its last job.**"
    events = "" if document["events"] is None else f" on {document['events']}"
    about = (
        f"`equikernels study {study.name} --{document['kind']}`{events}; means and standard deviations over {repeated} "
        f"seeds. {took} with {machine_line(document)}.{unfinished}"
    )
    image = f"![{study.asks}]({figure(study.name).name})"
    return f"{study.table(results)}\n\n{about}\n\n{image}"


def complete(study: Study, results: Results) -> bool:
    """Whether each job has a result."""
    expected = {job.key for job in study.points(results.document["kind"] == "full")}
    return expected <= results.document["records"].keys()


def page(root: Path) -> str:
    """The page's text as the results have it."""
    text, results = (root / PAGE).read_text(), load(root)
    for name, study in STUDIES.items():
        text = render(text, f"study {name}", section(study, results.get(name)))
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    root = Path.cwd()
    try:
        text = page(root)
    except (LookupError, OSError) as error:
        print(f"bench.studies.pages: {error}", file=sys.stderr)
        return 2
    if options.check:
        return int(text != (root / PAGE).read_text())
    (root / PAGE).write_text(text)
    for name, results in load(root).items():
        STUDIES[name].plot(results, root / figure(name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
