"""Turns the package's docstrings, Google sections in reStructuredText, into what mkdocstrings reads: Markdown."""

from __future__ import annotations

import re
from collections.abc import Callable

ROLE = re.compile(r":(?:func|class|meth|attr|data|mod):`([^`]+)`")
VERBATIM = re.compile(r"(``.+?``|`[^`]+`|<autoref.*?</autoref>|\$[^$\n]+\$|\*\*[^*\n]+\*\*)", re.DOTALL)
SECTION = re.compile(r"(Args|Attributes|Returns|Raises|Warns|Yields):$")
ITEM = re.compile(r"    (\w+(?:, \w+)+): (.*)")

Link = Callable[[str], str]


def markdown(text: str, link: Link) -> str:
    """A docstring as Markdown.

    Args:
        text: without the indentation of its first line.
        link: name of an object, as in :func:`name`, -> Markdown.
    """
    out: list[str] = []
    section, inside = "", False
    others: list[str] = []  # names that share the text of the current item
    for line in [*blocks(text.expandtabs().split("\n")), ""]:
        if inside or line.strip() in ("$$", "```python"):
            inside ^= line.strip() in ("$$", "```python", "```")
            out.append(line)
            continue
        if indent_of(line) <= 4 and (line or not section):
            out += others
            others = []
        if found := SECTION.match(line):
            section = found[1]
        elif line and not line.startswith(" "):
            section = ""
        if section in ("Args", "Attributes") and (found := ITEM.match(line)):
            first, *rest = found[1].split(", ")
            line, others = f"    {first}: {found[2]}", [f"    {name}: as ``{first}``." for name in rest]
        elif section in ("Returns", "Yields") and line.startswith(" "):
            line = colons(line)
        out.append(line)
    out[-1:] = others
    joined = "\n".join(out)
    parts = re.split(r"(^ *(?:\$\$$.*?^ *\$\$|```python$.*?^ *```)$)", joined, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if k % 2 else inline(part, link) for k, part in enumerate(parts))


def colons(line: str) -> str:
    """A result has no name: its colons are of its text."""
    return "".join(p if k % 2 else p.replace(": ", "&#58; ") for k, p in enumerate(VERBATIM.split(line)))


def inline(text: str, link: Link) -> str:
    """Roles become links; signs that mean something in Markdown are escaped."""
    text = re.sub(r":math:`([^`]+)`", r"$\1$", text)
    text = ROLE.sub(lambda found: link(found[1]), text)
    return "".join(part if k % 2 else escaped(part) for k, part in enumerate(VERBATIM.split(text)))


def escaped(text: str) -> str:
    text = text.replace(r"\|", "|").replace("<", "&lt;")
    return re.sub(r"(?<!\\)\*", r"\\*", text)


def indent_of(line: str) -> int:
    return len(line) - len(line.lstrip())


def blocks(lines: list[str]) -> list[str]:
    """Formulas, doctests, tables and lists of definitions."""
    out: list[str] = []
    k = 0
    while k < len(lines):
        line, space = lines[k], lines[k][: indent_of(lines[k])]
        body, following = under(lines, k)
        if line.lstrip().startswith(".. math::"):
            formula = [line.split("::", 1)[1].strip(), *(row.strip() for row in body)]
            out += ["", f"{space}$$", space + aligned(" ".join(filter(None, formula))), f"{space}$$", ""]
            k = following
        elif line.lstrip().startswith(">>> "):
            end = next(
                (j for j in range(k, len(lines)) if not lines[j].lstrip().startswith((">>> ", "... "))), len(lines)
            )
            out += [f"{space}```python", *(space + row.lstrip()[4:] for row in lines[k:end]), f"{space}```"]
            k = end
        elif re.fullmatch(r" *=+( +=+)+", line):
            end = [j for j in range(k + 1, len(lines)) if lines[j] == line][1]
            out += ["", *(space + row for row in table(line, lines[k + 1 : end])), ""]
            k = end + 1
        elif found := re.fullmatch(r"Args \((.+)\):(.*)", line):
            said = found[1][0].upper() + found[1][1:]
            out += [f"{said}:{found[2]} as follows." if found[2] else f"{said}.", "", "Args:"]
            k += 2 if not lines[k + 1].strip() else 1
        elif defines(line, body) and (not out or not out[-1].strip() or out[-1].startswith("    ")):
            out += ["", line, f":   {body[0].strip()}", *body[1:], ""]
            k = following
        else:
            out.append(line)
            k += 1
    return out


def under(lines: list[str], k: int) -> tuple[list[str], int]:
    """The lines below line k that are indented more, without blank ones behind them, and where the next begins."""
    end = k + 1
    while end < len(lines) and (not lines[end].strip() or indent_of(lines[end]) > indent_of(lines[k])):
        end += 1
    body = lines[k + 1 : end]
    while body and not body[-1].strip():
        body.pop()
    return body, k + 1 + len(body)


def defines(line: str, body: list[str]) -> bool:
    """Whether a line is a term of a list of definitions, its definition below it."""
    starts = line[:1].strip() and not line.startswith(("-", "..", ">"))
    return bool(starts) and not line.rstrip().endswith(":") and bool(body) and indent_of(body[0]) == 4


def aligned(formula: str) -> str:
    formula = formula.replace("``", "")
    return rf"\begin{{aligned}} {formula} \end{{aligned}}" if r"\\" in formula else formula


def table(rule: str, rows: list[str]) -> list[str]:
    """A simple table, whose columns lie under the marks of its rule."""
    spans = [found.span() for found in re.finditer("=+", rule)]
    ends = [*(b for _, b in spans[:-1]), None]  # the last column may be wider than its mark
    cells = [[row[a:b].strip() for (a, _), b in zip(spans, ends, strict=True)] for row in rows if "==" not in row]
    head, *body = (f"| {' | '.join(row)} |" for row in cells)
    return [head, "|---" * len(spans) + "|", *body]
