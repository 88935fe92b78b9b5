"""Writing reports as HTML pages from templates, which escape their values."""

import base64
import hashlib
from collections.abc import Iterable
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from crn.config import Options
from crn.option import flag
from crn.system.files import set_aside, written_whole
from crn.system.text import counted

REPORT_FILE = "report.html"

# For each group of options, or "model": the value of each name, and whether it was typed.
Settings = dict[str, dict[str, tuple[Any, bool]]]

_TEMPLATES = Path(__file__).with_name("templates")


def write_page(
    path: Path,
    template: str,
    settings: Settings,
    data: Any = None,
    script: str = "gallery.js",
    **values: Any,
) -> None:
    """Write a report, whole or not at all; what an earlier run left there is renamed.

    Args:
        path: the page.
        template: a template that extends page.html.
        settings: see `typed_settings`.
        data: data for the script; None leaves it out.
        script: a file of templates/.
        values: values for the template.
    """
    page = render(
        template,
        date=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        style=_file("style.css"),
        script="" if data is None else _file(script),
        settings=settings,
        data=data,
        **values,
    )
    set_aside(path)
    # Characters of paths that are not text are replaced; they do not raise an error.
    with written_whole(path, "w", encoding="utf-8", errors="xmlcharrefreplace") as file:
        file.write(page)


def render(template: str, **values: Any) -> Markup:
    """Render a file of templates/."""
    return Markup(_environment().get_template(template).render(values))


def typed_settings(options: Options, names: Iterable[str]) -> Settings:
    """The options that had an effect in a run, of the groups with these names."""
    return {
        group: {flag(k): (v, k in options.given) for k, v in options.in_effect(group).items()}
        for group in names
    }


def decimal(value: float | None) -> str:
    """A metric with three decimals; a dash if it is unknown."""
    return "–" if value is None else f"{value:.3f}"


def _interval(ends: tuple[float, float]) -> str:
    return "–".join(map(decimal, ends))


def _readable(value: Any) -> Any:
    """The value of an option as people read it; long paths break after slashes."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        value = " ".join(map(str, value))
    return Markup("/<wbr>").join(str(value).split("/"))


def _hash(text: str) -> str:
    """The hash by which a content security policy allows an inline style or script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _file(name: str) -> Markup:
    """A file of templates/ without escaping."""
    return Markup((_TEMPLATES / name).read_text(encoding="utf-8"))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    filters = {"decimal": decimal, "interval": _interval, "readable": _readable, "hash": _hash}
    environment.filters |= filters
    environment.globals |= {"counted": counted}
    return environment
