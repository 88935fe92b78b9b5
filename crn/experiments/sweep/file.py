"""The YAML file of a sweep in W&B's format: what is searched, and how a run is started."""

import itertools
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from crn.command_line import parse_options
from crn.errors import UserError
from crn.experiments.sweep.parameters import Parameter, read_parameters

METHODS = ("grid", "random", "bayes")
GOALS = ("maximize", "minimize")

_KEYS = {
    *("name", "description", "project", "entity", "program", "command"),
    *("method", "metric", "parameters", "run_cap"),
}
_COMMAND = ("${env}", "${interpreter}", "${program}", "${args}")


@dataclass(frozen=True)
class Sweep:
    """The content of a sweep's YAML file.

    Attributes:
        metric: the column of metrics.csv whose last value is optimised.
        command: words with W&B's placeholders, such as ``${program}``.
        run_cap: maximum number of runs; None if the file sets no limit.
    """

    program: str
    method: str
    metric: str
    goal: str
    command: tuple[str, ...]
    parameters: Mapping[str, Parameter]
    run_cap: int | None

    def searched(self) -> list[str]:
        """The parameters that differ between runs."""
        return [name for name, of in self.parameters.items() if len(of.examples()) > 1]

    def grid(self) -> Iterator[dict[str, Any]]:
        """All configurations of a grid; the last parameter changes fastest."""
        for values in itertools.product(*(of.examples() for of in self.parameters.values())):
            yield dict(zip(self.parameters, values, strict=True))

    def grid_size(self) -> int:
        """The number of configurations of a grid."""
        return math.prod(len(of.examples()) for of in self.parameters.values())

    def words(self, configuration: Mapping[str, Any], *more: str) -> list[str]:
        """The command that runs a configuration.

        Args:
            configuration: values of the parameters.
            more: words that follow.
        """
        stands_for = {
            # W&B's /usr/bin/env finds the interpreter, which is known here.
            "${env}": [],
            "${interpreter}": [sys.executable],
            "${program}": [self.program],
            "${args}": [f"--{name}={value}" for name, value in configuration.items()],
        }
        words = [part for word in self.command for part in stands_for.get(word, [word])]
        return [*words, *more]

    def described(self, configuration: Mapping[str, Any]) -> str:
        """The values of the searched parameters, on one line."""
        return "  ".join(f"{n}={short(configuration[n])}" for n in self.searched()) or self.program

    def definition(self) -> dict[str, Any]:
        """Plain values, equal for sweeps whose runs can be compared."""
        values = asdict(self) | {"command": list(self.command)}
        del values["run_cap"]
        return values | {"parameters": {name: str(of) for name, of in self.parameters.items()}}


def short(value: Any) -> str:
    """A value of a parameter as people read it."""
    return f"{value:.4g}" if isinstance(value, float) else str(value) or '""'


def read_sweep(path: Path) -> Sweep:
    """Read a sweep's YAML file.

    Raises:
        UserError: it cannot be read, or asks for something that this program cannot do.
    """
    try:
        return _sweep(_read_yaml(path))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def check_command(sweep: Sweep, arguments: Sequence[str]) -> None:
    """Check that the program exists and that train.py accepts every value of every parameter.

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
    examples = {name: of.examples() for name, of in sweep.parameters.items()}
    # Together, these configurations have every choice and both ends of every range.
    for index in range(max(map(len, examples.values()), default=1)):
        configuration = {name: values[index % len(values)] for name, values in examples.items()}
        words = sweep.words(configuration, *arguments)
        parse_options(words[words.index(sweep.program) + 1 :])


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
    # ValueError: bytes that are not UTF-8, or an impossible date.
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"is not YAML: {error}") from None


def _sweep(content: Any) -> Sweep:
    if not isinstance(content, dict):
        raise UserError("is not a sweep: it has no method and parameters")
    if "early_terminate" in content:
        raise UserError("early_terminate: runs cannot be ended early here; leave it out")
    for key in content:
        if key not in _KEYS:
            raise UserError(f"{key!r} is not a key of a sweep: {', '.join(sorted(_KEYS))}")
    method, program = content.get("method"), content.get("program")
    if method not in METHODS:
        raise UserError(f"method is {', '.join(METHODS)}, not {method!r}")
    if not isinstance(program, str) or not program:
        raise UserError("program is missing: give the file to run, as in train.py")
    run_cap = content.get("run_cap")
    if run_cap is not None and (type(run_cap) is not int or run_cap < 1):
        raise UserError(f"run_cap takes a whole number from 1 on, not {run_cap!r}")
    return Sweep(
        os.path.expanduser(program),
        method,
        *_metric(content.get("metric")),
        _command(content.get("command", _COMMAND)),
        read_parameters(content.get("parameters"), is_grid=method == "grid"),
        run_cap,
    )


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
