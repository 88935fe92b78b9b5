"""Options: each is a field of a dataclass and a flag, with its type, range and meaning."""

import dataclasses
import sys
import typing
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from types import MappingProxyType, NoneType
from typing import Any, ClassVar, Literal

from crn.system.text import quoted

MOST_VALUES = 100

# What a checkpoint fixes: options that its weights depend on, and options that say how the model
# was trained, which may change when training goes on.
ALWAYS, WHEN_SCORING = "always", "when scoring"


def option(
    default: Any,
    help: str,
    *,
    choices: tuple | None = None,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    mode: tuple[str, ...] | None = None,
    model: tuple[str, ...] | None = None,
    needs: tuple[str, tuple] | None = None,
    fixed: str | None = None,
    writes: Literal["", "file", "folder"] = "",
) -> Any:
    """A dataclass field that is also a command-line flag.

    Args:
        default: the value if the flag is not given.
        help: what it does, with its unit; the command line adds the range and the default.
        choices: the allowed values.
        low, high: the smallest and the largest allowed number.
        above: numbers have to be larger than this.
        mode, model, fixed: as in `OptionGroup`, if the option differs from its group.
        needs: another option, and its values with which the flag has an effect.
        writes: what the option names, if the run writes it.
    """
    limits = {"choices": choices, "low": low, "high": high, "above": above}
    own = {"mode": mode, "model": model, "fixed": fixed}
    metadata = {"help": help, "needs": needs, "writes": writes, **limits}
    metadata |= {name: value for name, value in own.items() if value is not None}
    return field(default=default, metadata=metadata)


def option_names(*groups: type) -> list[str]:
    """The names of the options in some groups."""
    return [option_field.name for group in groups for option_field in dataclasses.fields(group)]


def fixed_options(groups: Iterable[type["OptionGroup"]], kinds: Container[str]) -> list[str]:
    """The names of the options that a checkpoint fixes in one of these ways."""
    return [
        option_field.name
        for group in groups
        for option_field in dataclasses.fields(group)
        if option_field.metadata["fixed"] in kinds
    ]


def flag(name: str) -> str:
    """The flag of an option: ``batch_size`` is ``--batch-size``."""
    return "--" + name.replace("_", "-")


def value_type(option_field: dataclasses.Field) -> type:
    """The type of the option's value or, for a list, of its items: `int` for ``int | None``."""
    (kind,) = {
        part
        for part in typing.get_args(option_field.type) or (option_field.type,)
        if part not in (NoneType, Ellipsis)
    }
    return kind


def is_list(option_field: dataclasses.Field) -> bool:
    """Whether the option takes several values."""
    return typing.get_origin(option_field.type) is tuple


def allowed(option_field: dataclasses.Field) -> str:
    """The values that the option takes, in words; empty if it takes any."""
    limits = option_field.metadata
    if limits["choices"]:
        return ", ".join(str(choice) or '""' for choice in limits["choices"])
    low, high, above = limits["low"], limits["high"], limits["above"]
    if low is not None and high is not None:
        return f"{low} to {high}"
    ends = (("above", above), ("at least", low), ("at most", high))
    return ", ".join(f"{word} {end}" for word, end in ends if end is not None)


def has_effect(option_field: dataclasses.Field, run: Any) -> bool:
    """Whether the option has an effect with the ``mode`` and the ``model`` of a run."""
    return all(counts(option_field, kind, run) for kind in ("mode", "model"))


def counts(option_field: dataclasses.Field, kind: str, run: Any) -> bool:
    """Whether the option has an effect with the "mode" or the "model" of a run."""
    only = option_field.metadata[kind]
    return not only or getattr(run, kind) in only


def missing_for(option_field: dataclasses.Field, values: dict[str, Any]) -> str | None:
    """What has to be typed for the option to have an effect, such as "--optimizer sgd".

    It depends on the values of all options.
    """
    name, wanted = option_field.metadata["needs"] or (None, ())
    if name is None or values[name] in wanted:
        return None
    return flag(name) if wanted == (True,) else f"{flag(name)} {' or '.join(map(str, wanted))}"


@dataclass(frozen=True)
class OptionGroup:
    """Base class of groups of options; refuses values of the wrong type or out of range.

    Args of a subclass:
        title: heading of the group in the help.
        fixed: `ALWAYS` or `WHEN_SCORING` if a checkpoint fixes its options then, else "".
        mode: the values of ``--mode`` with which its options have an effect; empty for all.
        model: the same for ``--model``.

    Raises:
        ValueError: on construction; one line that names the flag and what it takes.
    """

    title: ClassVar[str]

    def __init_subclass__(
        cls, title: str, fixed: str = "", mode: tuple[str, ...] = (), model: tuple[str, ...] = ()
    ) -> None:
        cls.title = title
        of_all = {"fixed": fixed, "mode": mode, "model": model}
        for each in vars(cls).values():
            if isinstance(each, dataclasses.Field):
                each.metadata = MappingProxyType({**of_all, **each.metadata})

    def __post_init__(self) -> None:
        for option_field in dataclasses.fields(self):
            value = getattr(self, option_field.name)
            if value is None and option_field.default is None:
                continue
            items = value if is_list(option_field) and isinstance(value, tuple) else (value,)
            if len(items) > MOST_VALUES:
                name = flag(option_field.name)
                raise ValueError(f"{name} takes at most {MOST_VALUES} values, not {len(items)}")
            for item in items:
                _check_value(option_field, item)


def _check_value(option_field: dataclasses.Field, value: Any) -> None:
    kind, limits = value_type(option_field), option_field.metadata
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    # Also refuses whole numbers that no float can hold.
    is_finite = is_number and abs(value) <= sys.float_info.max
    fits = is_finite if kind is float else isinstance(value, kind)
    # Python's True is a whole number.
    fits = fits and (kind is not int or is_number)
    if fits and limits["choices"]:
        fits = value in limits["choices"]
    if fits and is_number:
        low, high, above = limits["low"], limits["high"], limits["above"]
        fits = (
            (low is None or value >= low)
            and (high is None or value <= high)
            and (above is None or value > above)
        )
    if not fits:
        takes = allowed(option_field) or f"a value of type {kind.__name__}"
        raise ValueError(f"{flag(option_field.name)} takes {takes}, not {quoted(value)}")
