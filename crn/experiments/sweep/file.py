"""The YAML file of a sweep in W&B's format: what is searched, and how a run is started."""

import os
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import BaseModel, Field, FiniteFloat, PositiveInt, ValidationError, model_validator

from crn.command_line import parse_options
from crn.errors import UserError

# W&B's placeholders in a command.
_COMMAND = ("${env}", "${interpreter}", "${program}", "${args}")

Distribution = CategoricalDistribution | IntDistribution | FloatDistribution


class Parameter(BaseModel, extra="forbid"):
    """A flag of the program: with one value, one of several, or a number from a range."""

    distribution: (
        Literal["constant", "categorical", "int_uniform", "uniform", "log_uniform_values"] | None
    ) = None
    value: Any = None
    values: list[Any] = Field([], min_length=1)
    min: int | FiniteFloat = 0
    max: int | FiniteFloat = 0

    @cached_property
    def in_optuna(self) -> Distribution:
        """Optuna's distribution; one value or several are texts, as typed on the command line."""
        match self.distribution, sorted(self.model_fields_set - {"distribution"}):
            case None | "constant", ["value"]:
                return CategoricalDistribution([str(self.value)])
            case None | "categorical", ["values"]:
                # Values that read the same on the command line are one.
                return CategoricalDistribution(list(dict.fromkeys(map(str, self.values))))
            case None | "int_uniform", ["max", "min"] if isinstance(self.min, int) and isinstance(
                self.max, int
            ):
                return IntDistribution(self.min, self.max)
            case None | "uniform" | "log_uniform_values" as name, ["max", "min"]:
                return FloatDistribution(self.min, self.max, log=name == "log_uniform_values")
        raise ValueError("give value, values, or min and max (whole numbers for int_uniform)")

    @model_validator(mode="after")
    def _check(self) -> "Parameter":
        assert self.in_optuna
        return self


class Metric(BaseModel, extra="forbid"):
    """The column of metrics.csv whose last value is optimised."""

    name: str
    goal: Literal["maximize", "minimize"] = "minimize"


class Sweep(BaseModel, extra="forbid"):
    """The content of a sweep's YAML file."""

    program: str
    method: Literal["grid", "random", "bayes"]
    metric: Metric
    parameters: dict[str, Parameter] = Field(min_length=1)
    command: list[str] = list(_COMMAND)
    run_cap: PositiveInt | None = None
    # These concern W&B only.
    name: Any = None
    description: Any = None
    project: Any = None
    entity: Any = None

    @cached_property
    def distributions(self) -> dict[str, Distribution]:
        """The parameters as Optuna knows them; for a grid, with all values."""
        known = {name: parameter.in_optuna for name, parameter in self.parameters.items()}
        # A local sweep needs no account; `-- --wandb` asks for it all the same.
        known.pop("wandb", None)
        for name, each in known.items():
            if self.method == "grid" and isinstance(each, FloatDistribution):
                raise ValueError(f"parameter {name}: a grid needs values or whole numbers")
            if self.method == "grid" and isinstance(each, IntDistribution):
                known[name] = CategoricalDistribution(range(each.low, each.high + 1))
        return known

    @property
    def searched(self) -> list[str]:
        """The parameters that differ between runs."""
        return [name for name, each in self.distributions.items() if not each.single()]

    @model_validator(mode="after")
    def _check(self) -> "Sweep":
        for word in self.command:
            if word.startswith("${") and word not in _COMMAND:
                raise ValueError(f"command: {word} is not known; known are {', '.join(_COMMAND)}")
        for word in ("${program}", "${args}"):
            if self.command.count(word) != 1:
                raise ValueError(f"command needs {word} once")
        self.program = os.path.expanduser(self.program)
        assert self.distributions is not None
        return self

    def words(self, configuration: Mapping[str, Any], *more: str) -> list[str]:
        """The command that runs a configuration, with more words at the end."""
        stands_for = {
            # W&B's /usr/bin/env finds the interpreter, which is known here.
            "${env}": [],
            "${interpreter}": [sys.executable],
            "${program}": [self.program],
            "${args}": [f"--{name}={value}" for name, value in configuration.items()],
        }
        return [*(part for word in self.command for part in stands_for.get(word, [word])), *more]


def read_sweep(path: Path) -> Sweep:
    """Read a sweep's YAML file.

    Raises:
        UserError: it cannot be read, or asks for something that this program cannot do.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise UserError(f"{path}: is not a sweep: it has no method and parameters")
        return Sweep.model_validate(content)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except ValidationError as invalid:
        # The last one: "not a number" comes after "not a whole number".
        last = invalid.errors()[-1]
        where = "".join(f"{key}: " for key in last["loc"] if key not in ("int", "float"))
        raise UserError(f"{path}: {where}{last['msg'].removeprefix('Value error, ')}") from None
    # ValueError: bytes that are not UTF-8, or an impossible date.
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{path}: is not YAML: {' '.join(str(error).split())}") from None


def check_command(sweep: Sweep, arguments: Sequence[str]) -> None:
    """Check that the program exists and that train.py accepts every value of every parameter.

    Raises:
        UserError: there is no such program, or it refuses a parameter.
    """
    if not Path(sweep.program).is_file():
        raise UserError(
            f"program {sweep.program}: no such file; start sweep.py in the folder that it is in"
        )
    if "log-dir" in sweep.parameters or any(word.startswith("--log-dir") for word in arguments):
        raise UserError("--log-dir: leave it out; every run has its own folder in the sweep's")
    if Path(sweep.program).name != "train.py":
        return
    examples = {
        name: each.choices if isinstance(each, CategoricalDistribution) else (each.low, each.high)
        for name, each in sweep.distributions.items()
    }
    # Together, these configurations have every choice and both ends of every range.
    for index in range(max(map(len, examples.values()))):
        configuration = {name: values[index % len(values)] for name, values in examples.items()}
        words = sweep.words(configuration, *arguments)
        parse_options(words[words.index(sweep.program) + 1 :])
