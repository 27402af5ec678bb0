"""MkDocs hooks of the site: parts of other files, and links that lead out of docs/."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PART = re.compile(r"^<!-- (all|section|table) of ([\w.]+)(?:: (.+?))? -->$", re.MULTILINE)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    folder = (DOCS / page.file.src_uri).parent
    return relinked(PART.sub(lambda found: part(*found.groups(), folder), markdown), folder, folder)


def part(what: str, file: str, title: str | None, folder: Path) -> str:
    """A whole file, a section of it without its title, or the table in that section; links as from ``folder``."""
    text = (ROOT / file).read_text()
    if title is not None:
        found = re.search(rf"^## {re.escape(title)}$\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
        if found is None:
            raise PluginError(f"{file} has no section {title!r}")
        text = found[1].strip()
    if what == "table":
        text = "\n".join(line for line in text.splitlines() if line.startswith("|"))
    return relinked(text, ROOT, folder)


def relinked(text: str, base: Path, folder: Path) -> str:
    """Links as from ``folder``; those to files that are not of the site become text."""

    def link(found: re.Match[str]) -> str:
        words, target = found.group("words", "target")
        if words is None or re.match(r"https?:|#", target):
            return found[0]
        path, anchor, name = target.partition("#")
        where = Path(os.path.normpath(base / path))
        if not where.exists():
            raise PluginError(f"{folder}: the link {target!r} leads nowhere")
        inside = where.is_relative_to(DOCS) and where.is_file()
        return f"[{words}]({os.path.relpath(where, folder)}{anchor}{name})" if inside else words

    pattern = re.compile(
        r"^```.*?^```|`[^`]*`|(?<!!)\[(?P<words>(?:[^\]`]|`[^`]*`)+)\]\((?P<target>[^)\s]+)\)", re.MULTILINE | re.DOTALL
    )
    return pattern.sub(link, text)
