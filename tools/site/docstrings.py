"""Griffe's extension that reads the package's docstrings: see rst.py."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import griffe

sys.path.insert(0, str(Path(__file__).parent))
import rst


class Docstrings(griffe.Extension):
    """Turns every docstring of a package that was read into Markdown."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        rewrite(pkg)


def rewrite(obj: griffe.Object) -> None:
    if obj.docstring is not None:
        obj.docstring.value = rst.markdown(obj.docstring.value, lambda name: link(obj, name))
    for member in obj.members.values():
        if not member.is_alias:
            rewrite(member)  # type: ignore[arg-type]


def link(obj: griffe.Object, name: str) -> str:
    """A link to an object that has a page, and its name alone where it has none."""
    first, *rest = name.split(".")
    try:
        target = name if first == "equikernels" else ".".join([obj.resolve(first), *rest])
    except griffe.NameResolutionError:
        return f"`{name}`"
    return f'<autoref identifier="{target}" optional><code>{name}</code></autoref>'
