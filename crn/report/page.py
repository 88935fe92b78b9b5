"""How a report becomes a page: its frame, its style, its script and its data."""

import base64
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from crn.config import Options
from crn.option import flag, has_effect
from crn.system.files import set_aside, written_whole

REPORT_FILE = "report.html"

_HERE = Path(__file__).parent


def template(name: str) -> Template:
    """A file of this package with places to fill in."""
    return Template(_read(name))


def write_page(
    path: Path, title: str, subtitle: str, sections: Iterable[str], data: Any = None
) -> None:
    """Write a report, whole or not at all; what an earlier run left there is renamed.

    Args:
        path: the page.
        title, subtitle: plain text.
        sections: HTML.
        data: for gallery.js, which is left out where there is none.
    """
    style, script = _read("style.css"), "" if data is None else _read("gallery.js")
    page = template("page.html").substitute(
        title=escape(title),
        subtitle=escape(subtitle),
        date=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        sections="\n".join(sections),
        style=style,
        style_hash=_hash(style),
        script=script,
        script_hash=_hash(script),
        data=island(data),
    )
    set_aside(path)
    # What is no text in a path becomes replacement characters, not an error.
    with written_whole(path, "w", encoding="utf-8", errors="xmlcharrefreplace") as file:
        file.write(page)


def island(data: Any) -> str:
    """JSON that nothing in an HTML page takes for markup."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def section(title: str, *content: str, name: str) -> str:
    """A part of the page under a heading; ``content`` is HTML."""
    return (
        f'<section aria-labelledby="{name}"><h2 id="{name}">{escape(title)}</h2>'
        f"{''.join(content)}</section>"
    )


def note(text: str) -> str:
    """A paragraph that says how to read what is above it."""
    return f'<p class="note">{escape(text)}</p>'


def figures(items: Iterable[tuple[str, str, str]]) -> str:
    """Large figures: name, value and remark of each."""
    cells = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}"
        f'<span class="remark">{escape(remark)}</span></dd></div>'
        for name, value, remark in items
    )
    return f'<dl class="figures">{cells}</dl>'


def table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column names the rows.

    Args:
        caption, columns: plain text.
        rows: plain text, but HTML where it starts with "<svg". On a phone a row is a block in which
            every cell carries its column's name.
    """
    head = "".join(f'<th role="columnheader" scope="col">{escape(name)}</th>' for name in columns)
    body = []
    for first, *rest in rows:
        cells = "".join(
            f'<td role="cell" data-column="{escape(name)}">'
            f"{cell if cell.startswith('<svg') else escape(cell)}</td>"
            for name, cell in zip(columns[1:], rest, strict=True)
        )
        body.append(
            f'<tr role="row"><th role="rowheader" scope="row">{escape(first)}</th>{cells}</tr>'
        )
    # The roles stay where the style makes blocks of the rows.
    return (
        f'<table role="table"><caption>{escape(caption)}</caption><thead role="rowgroup">'
        f'<tr role="row">{head}</tr></thead><tbody role="rowgroup">{"".join(body)}</tbody></table>'
    )


def settings(options: Options, names: Iterable[str], more: dict[str, Any]) -> str:
    """The options of a run that counted, as lists of names and values.

    Args:
        options: of the run.
        names: which groups of `crn.config.GROUPS`.
        more: shown first, under "model"; nothing where empty.
    """
    groups: dict[str, dict[str, tuple[Any, bool]]] = {}
    if more:
        groups["model"] = {name: (value, False) for name, value in more.items()}
    for group in names:
        values = getattr(options, group)
        groups[group] = {
            flag(each.name): (getattr(values, each.name), each.name in options.given)
            for each in dataclasses.fields(values)
            if has_effect(each, options.run)
        }
    blocks = []
    for group, values in groups.items():
        if not values:
            continue
        rows = "".join(
            f"<div><dt>{escape(name)}</dt><dd>{'<strong>' if typed else ''}"
            f"{_shown(value)}{'</strong>' if typed else ''}</dd></div>"
            for name, (value, typed) in values.items()
        )
        blocks.append(f"<div><h3>{escape(group)}</h3><dl>{rows}</dl></div>")
    return f'<div class="settings">{"".join(blocks)}</div>' + note(
        "Bold: typed on the command line. The rest are defaults or follow from it."
    )


def decimal(value: float | None) -> str:
    """A metric with three decimals; a dash where it is unknown."""
    return "–" if value is None else f"{value:.3f}"


def _shown(value: Any) -> str:
    """A value as HTML; a long path breaks after a slash."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        value = " ".join(map(str, value))
    return escape(str(value)).replace("/", "/<wbr>")


def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """What a content security policy names an inline style or script by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
