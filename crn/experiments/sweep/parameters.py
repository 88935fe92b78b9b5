"""The parameters of a sweep and their distributions, by W&B's names."""

import math
from dataclasses import dataclass
from typing import Any

from crn.errors import UserError

# The keys of each distribution.
_DISTRIBUTIONS = {
    "constant": {"value"},
    "categorical": {"values"},
    "int_uniform": {"min", "max"},
    "uniform": {"min", "max"},
    "log_uniform_values": {"min", "max"},
}
_LONGEST_LIST = 100_000


@dataclass(frozen=True)
class Choice:
    """One of several values, as typed on the command line."""

    texts: tuple[str, ...]

    def examples(self) -> tuple[str, ...]:
        """All values."""
        return self.texts


@dataclass(frozen=True)
class Range:
    """A number from ``low`` to ``high``; a whole number if both are `int`."""

    low: float
    high: float
    is_logarithmic: bool = False

    def examples(self) -> tuple[float, float]:
        """Both ends."""
        return self.low, self.high


Parameter = Choice | Range


def read_parameters(content: Any, is_grid: bool) -> dict[str, Parameter]:
    """Read the key ``parameters`` of a sweep.

    Raises:
        UserError: it asks for something that this program cannot do.
    """
    if not isinstance(content, dict) or not content:
        raise UserError("parameters are missing: give a value, values, or min and max for each")
    parameters = {}
    for name, description in content.items():
        try:
            parameter = _parameter(description)
            if is_grid:
                parameter = _listed(parameter)
        except UserError as error:
            raise UserError(f"parameter {name}: {error}") from None
        parameters[str(name)] = parameter
    # A local sweep needs no account; `-- --wandb` asks for it all the same.
    parameters.pop("wandb", None)
    return parameters


def _parameter(description: Any) -> Parameter:
    rest = dict(description) if isinstance(description, dict) else {}
    kind = rest.pop("distribution", None) or _implied_distribution(rest)
    if str(kind) not in _DISTRIBUTIONS:
        raise UserError(
            f"distribution {kind} is not known here; known are {', '.join(_DISTRIBUTIONS)}"
        )
    if rest.keys() != _DISTRIBUTIONS[kind]:
        takes = " and ".join(sorted(_DISTRIBUTIONS[kind], reverse=True))
        raise UserError(f"{kind} takes {takes}, not {', '.join(map(str, rest)) or 'nothing'}")
    if kind == "constant":
        return Choice((str(rest["value"]),))
    if kind == "categorical":
        values = rest["values"]
        if not isinstance(values, list) or not values:
            raise UserError("values takes a list that is not empty")
        # Two values that read the same on the command line are one.
        return Choice(tuple(dict.fromkeys(map(str, values))))
    return _range(kind, rest["min"], rest["max"])


def _implied_distribution(description: dict[Any, Any]) -> str:
    if "value" in description:
        return "constant"
    if "values" in description:
        return "categorical"
    if {"min", "max"} <= description.keys():
        both_whole = type(description["min"]) is type(description["max"]) is int
        return "int_uniform" if both_whole else "uniform"
    raise UserError("give a value, values, or min and max")


def _range(kind: str, low: Any, high: Any) -> Range:
    is_whole = kind == "int_uniform"
    for name, limit in {"min": low, "max": high}.items():
        if not _is_number(limit, is_whole):
            takes = "a whole number" if is_whole else "a number (in YAML 0.0001, not 1e-4)"
            raise UserError(f"{name} takes {takes}, not {limit!r}")
    if low > high:
        raise UserError(f"min {low} is above max {high}")
    is_logarithmic = kind == "log_uniform_values"
    if is_logarithmic and low <= 0:
        raise UserError(f"min of a logarithmic range is above 0, not {low}")
    return Range(low, high) if is_whole else Range(float(low), float(high), is_logarithmic)


def _is_number(value: Any, is_whole: bool) -> bool:
    # By type, because True is an int for isinstance. Optuna computes with numbers of 64 bits.
    if type(value) is int:
        return -(2**63) <= value < 2**63
    return type(value) is float and not is_whole and math.isfinite(value)


def _listed(parameter: Parameter) -> Choice:
    """All values of a parameter, for a grid."""
    if isinstance(parameter, Choice):
        return parameter
    if isinstance(parameter.low, float):
        raise UserError("a grid needs values or whole numbers, not a continuous range")
    if parameter.high - parameter.low >= _LONGEST_LIST:
        raise UserError(f"a grid takes at most {_LONGEST_LIST} values of a parameter")
    return Choice(tuple(map(str, range(parameter.low, parameter.high + 1))))
