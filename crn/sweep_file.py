"""A sweep's YAML file, in the form that W&B takes: what is searched, and how a run is started."""

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from crn.command_line import parse_options
from crn.config import GROUPS, flag, option_names
from crn.errors import UserError

METHODS = ("grid", "random", "bayes")
GOALS = ("maximize", "minimize")

# Each distribution, by W&B's name, and what describes it.
_DISTRIBUTIONS = {
    "constant": {"value"},
    "categorical": {"values"},
    "int_uniform": {"min", "max"},
    "uniform": {"min", "max"},
    "log_uniform": {"min", "max"},
    "log_uniform_values": {"min", "max"},
}
_KEYS = {
    *("name", "description", "project", "entity", "program", "command"),
    *("method", "metric", "parameters", "run_cap"),
}
_COMMAND = ("${env}", "${interpreter}", "${program}", "${args}")
_LONGEST_LIST = 100_000


@dataclass(frozen=True)
class Choice:
    """One of some values, as they stand on the command line."""

    texts: tuple[str, ...]

    def examples(self) -> tuple[str, ...]:
        """All values."""
        return self.texts


@dataclass(frozen=True)
class Range:
    """A number from ``low`` to ``high``: a whole one where they are `int`."""

    low: float
    high: float
    is_logarithmic: bool = False

    def examples(self) -> tuple[float, float]:
        """Both ends."""
        return self.low, self.high


Parameter = Choice | Range


@dataclass(frozen=True)
class Sweep:
    """What a YAML file says.

    Attributes:
        metric: column of metrics.csv whose last value is optimised.
        command: words with W&B's placeholders, as in ``${program}``.
        run_cap: most runs; None where the file sets no limit.
    """

    program: str
    method: str
    metric: str
    goal: str
    command: tuple[str, ...]
    parameters: Mapping[str, Parameter]
    run_cap: int | None

    def searched(self) -> dict[str, Parameter]:
        """The parameters that differ between runs."""
        return {k: v for k, v in self.parameters.items() if k not in self.fixed()}

    def fixed(self) -> dict[str, str]:
        """The value of each parameter that has only one."""
        return {
            name: parameter.texts[0]
            for name, parameter in self.parameters.items()
            if isinstance(parameter, Choice) and len(parameter.texts) == 1
        }

    def grid_size(self) -> int:
        """How many configurations a grid has."""
        return math.prod(len(parameter.examples()) for parameter in self.parameters.values())

    def grid_point(self, index: int) -> dict[str, str]:
        """Configuration number ``index`` of a grid; the last parameter changes fastest."""
        point = {}
        for name, parameter in reversed(self.searched().items()):
            index, position = divmod(index, len(parameter.examples()))
            point[name] = str(parameter.examples()[position])
        return point

    def words(self, configuration: Mapping[str, Any], *more: str) -> list[str]:
        """The command that runs a configuration.

        Args:
            configuration: values of the searched parameters.
            more: words that follow.
        """
        values = self.fixed() | configuration
        stands_for = {
            # Nothing: what it calls, /usr/bin/env, finds the interpreter, which is known here.
            "${env}": [],
            "${interpreter}": [sys.executable],
            "${program}": [self.program],
            "${args}": [f"--{name}={values[name]}" for name in self.parameters],
        }
        words = [part for word in self.command for part in stands_for.get(word, [word])]
        return [*words, *more]

    def definition(self) -> dict[str, Any]:
        """Plain values, equal for sweeps whose runs can be compared."""
        values = asdict(self) | {"command": list(self.command)}
        values["parameters"] = {
            name: [type(parameter).__name__, *map(str, asdict(parameter).values())]
            for name, parameter in self.parameters.items()
        }
        del values["run_cap"]
        return values


def read_sweep(path: Path) -> Sweep:
    """Read a sweep's YAML file.

    Raises:
        UserError: it cannot be read, or says something that this program cannot do.
    """
    try:
        return _sweep(_read_yaml(path))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def check_command(sweep: Sweep, arguments: Sequence[str]) -> None:
    """Prove that the program can be started, and train.py with every value of every parameter.

    Args:
        sweep: the sweep.
        arguments: words that follow the parameters.

    Raises:
        UserError: there is no such program, or it refuses a parameter.
    """
    if not Path(sweep.program).is_file():
        raise UserError(
            f"program {sweep.program}: no such file; start sweep.py in the folder that it is in"
        )
    for word in (*(f"--{name}" for name in sweep.parameters), *arguments):
        if word.partition("=")[0] == "--log-dir":
            raise UserError("--log-dir: leave it out; every run has its own folder in the sweep's")
    if Path(sweep.program).name != "train.py":
        return
    flags = set(map(flag, option_names(*GROUPS.values())))
    for name in sweep.parameters:
        if f"--{name}" not in flags:
            raise UserError(f"parameter {name} is no flag of train.py: see python train.py --help")
    for configuration in _examples(sweep):
        words = sweep.words(configuration, *arguments)
        parse_options(words[words.index(sweep.program) + 1 :])


def _examples(sweep: Sweep) -> Iterator[dict[str, Any]]:
    """Configurations in which every choice and both ends of every range come up."""
    examples = {name: parameter.examples() for name, parameter in sweep.searched().items()}
    for index in range(max(map(len, examples.values()), default=1)):
        yield {name: values[index % len(values)] for name, values in examples.items()}


def _read_yaml(path: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError("no such file") from None
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})") from None
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"is not YAML: {error.problem}{line}") from None
    # ValueError: bytes that are not UTF-8, or a date that does not exist.
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"is not YAML: {error}") from None


def _sweep(content: Any) -> Sweep:
    if not isinstance(content, dict):
        raise UserError("is not a sweep: it has no method and parameters")
    _refuse_unknown_keys(content)
    method = content.get("method")
    if method not in METHODS:
        raise UserError(f"method is {', '.join(METHODS)}, not {method!r}")
    program = content.get("program")
    if not isinstance(program, str) or not program:
        raise UserError("program is missing: give the file to run, as in train.py")
    run_cap = content.get("run_cap")
    if run_cap is not None and (type(run_cap) is not int or run_cap < 1):
        raise UserError(f"run_cap takes a whole number from 1 on, not {run_cap!r}")
    metric, goal = _metric(content.get("metric"))
    return Sweep(
        program=program,
        method=method,
        metric=metric,
        goal=goal,
        command=_command(content.get("command", _COMMAND)),
        parameters=_parameters(content.get("parameters"), is_grid=method == "grid"),
        run_cap=run_cap,
    )


def _refuse_unknown_keys(content: dict[Any, Any]) -> None:
    if "early_terminate" in content:
        raise UserError("early_terminate: runs cannot be ended early here; leave it out")
    for key in content:
        if key not in _KEYS:
            raise UserError(f"{key!r} is not a key of a sweep: {', '.join(sorted(_KEYS))}")


def _metric(metric: Any) -> tuple[str, str]:
    if not isinstance(metric, dict) or not isinstance(metric.get("name"), str):
        raise UserError("metric is missing: give its name and goal")
    if metric.keys() - {"name", "goal"}:
        raise UserError(f"metric takes name and goal, not {', '.join(map(str, metric))}")
    # W&B's default.
    goal = metric.get("goal", "minimize")
    if goal not in GOALS:
        raise UserError(f"goal is {' or '.join(GOALS)}, not {goal!r}")
    return metric["name"], goal


def _command(words: Any) -> tuple[str, ...]:
    if not isinstance(words, (list, tuple)):
        raise UserError("command takes a list of words")
    command = tuple(map(str, words))
    for word in command:
        if word.startswith("${") and word not in _COMMAND:
            raise UserError(f"command: {word} is not known here; known are {', '.join(_COMMAND)}")
    for word in ("${program}", "${args}"):
        if command.count(word) != 1:
            raise UserError(f"command needs {word} once")
    return command


def _parameters(content: Any, is_grid: bool) -> dict[str, Parameter]:
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
    if not isinstance(description, dict):
        raise UserError("give a value, values, or min and max")
    rest = dict(description)
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
        return _choice(rest["values"])
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


def _choice(values: Any) -> Choice:
    if not isinstance(values, list) or not values:
        raise UserError("values takes a list that is not empty")
    # Two values that read the same on the command line are one.
    return Choice(tuple(dict.fromkeys(map(str, values))))


def _range(kind: str, low: Any, high: Any) -> Range:
    is_whole = kind == "int_uniform"
    for name, limit in {"min": low, "max": high}.items():
        if not _is_number(limit, is_whole):
            takes = "a whole number" if is_whole else "a number (in YAML 0.0001, not 1e-4)"
            raise UserError(f"{name} takes {takes}, not {limit!r}")
    if low > high:
        raise UserError(f"min {low} is above max {high}")
    if is_whole:
        return Range(low, high)
    if kind == "log_uniform":
        # W&B takes the exponents here.
        low, high = _exponential(low), _exponential(high)
    is_logarithmic = kind != "uniform"
    if is_logarithmic and low <= 0:
        raise UserError(f"min of a logarithmic range is above 0, not {low}")
    return Range(float(low), float(high), is_logarithmic)


def _is_number(value: Any, is_whole: bool) -> bool:
    # By type, because True is an int for isinstance. The database holds whole numbers of 64 bits.
    if type(value) is int:
        return -(2**63) <= value < 2**63
    return type(value) is float and not is_whole and math.isfinite(value)


def _exponential(number: float) -> float:
    try:
        return math.exp(number)
    except OverflowError:
        raise UserError(f"log_uniform takes logarithms: exp({number}) is too large") from None


def _listed(parameter: Parameter) -> Choice:
    """All values, for a grid."""
    if isinstance(parameter, Choice):
        return parameter
    if isinstance(parameter.low, float):
        raise UserError("a grid needs values or whole numbers, not a continuous range")
    if parameter.high - parameter.low >= _LONGEST_LIST:
        raise UserError(f"a grid takes at most {_LONGEST_LIST} values of a parameter")
    return Choice(tuple(map(str, range(parameter.low, parameter.high + 1))))
