"""How a report becomes a page: templates are filled in, and escape what they are filled with."""

import base64
import dataclasses
import hashlib
from collections.abc import Iterable
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from crn.config import Options
from crn.option import flag, has_effect
from crn.system.files import set_aside, written_whole
from crn.system.text import counted

REPORT_FILE = "report.html"

# For every group of options, or "model", names and values, and whether they were typed.
Settings = dict[str, dict[str, tuple[Any, bool]]]

_TEMPLATES = Path(__file__).with_name("templates")


def write_page(
    path: Path, template: str, settings: Settings, data: Any = None, **values: Any
) -> None:
    """Write a report, whole or not at all; what an earlier run left there is renamed.

    Args:
        path: the page.
        template: extends page.html.
        settings: see `typed_settings`.
        data: for gallery.js, which is left out where there is none.
        values: for the template.
    """
    page = render(
        template,
        date=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        style=_as_it_is("style.css"),
        script="" if data is None else _as_it_is("gallery.js"),
        settings=settings,
        data=data,
        **values,
    )
    set_aside(path)
    # What is no text in a path becomes replacement characters, not an error.
    with written_whole(path, "w", encoding="utf-8", errors="xmlcharrefreplace") as file:
        file.write(page)


def render(template: str, **values: Any) -> Markup:
    """A file of templates/, filled in."""
    return Markup(_environment().get_template(template).render(values))


def typed_settings(options: Options, names: Iterable[str]) -> Settings:
    """The options of a run that counted.

    Args:
        options: of the run.
        names: which groups of `crn.config.GROUPS`.
    """
    return {
        group: {
            flag(each.name): (getattr(values, each.name), each.name in options.given)
            for each in dataclasses.fields(values)
            if has_effect(each, options.run)
        }
        for group in names
        for values in [getattr(options, group)]
    }


def decimal(value: float | None) -> str:
    """A metric with three decimals; a dash where it is unknown."""
    return "–" if value is None else f"{value:.3f}"


def _interval(ends: tuple[float, float]) -> str:
    return "–".join(map(decimal, ends))


def _readable(value: Any) -> Any:
    """The value of an option for people; a long path breaks after a slash."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        value = " ".join(map(str, value))
    return Markup("/<wbr>").join(str(value).split("/"))


def _hash(text: str) -> str:
    """What a content security policy names an inline style or script by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _as_it_is(name: str) -> Markup:
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
