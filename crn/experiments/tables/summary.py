"""Trainings of a table put together: each method on each data set, over its seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from statistics import mean, stdev

from crn.experiments.tables.trainings import DataSet, Grid, Method, Result

BASELINES = (
    *("brightness", "contrast", "gradient energy", "mean image"),
    *("standardised mean image", "high-pass image", "untrained features"),
    *("centred mean image", "centred high-pass image", "centred untrained features"),
)


@dataclass(frozen=True)
class Cell:
    """What a method has reached on a data set.

    Attributes:
        done: seed to result, of trainings that have ended well.
        errors: of those that failed.
    """

    done: dict[int, Result]
    errors: list[str]

    def values(self, figure: str) -> list[float]:
        """One figure of `Result`, of every seed that has it."""
        values = (getattr(result, figure) for result in self.done.values())
        return [value for value in values if value is not None]


@dataclass(frozen=True)
class Summary:
    """All results of a table.

    Attributes:
        data: rows.
        methods: what was trained.
        seeds: of the trainings.
        cells: what came of it.
        baselines: data set to baseline to AUROC; the error where there is none.
    """

    data: list[DataSet]
    methods: list[Method]
    seeds: list[int]
    cells: dict[tuple[DataSet, Method], Cell]
    baselines: dict[DataSet, dict[str, float] | str]

    def averages(self, method: Method) -> list[float]:
        """The mean last AUROC over data sets, for every seed that has ended on all that have."""
        rows = [row for data in self.data if (row := self.cells[data, method].done)]
        return [
            mean(row[seed].last_auroc or 0 for row in rows)
            for seed in self.seeds
            if rows and all(seed in row for row in rows)
        ]

    def baseline(self, data: DataSet, name: str) -> float | None:
        """AUROC of a baseline; None where it failed."""
        aurocs = self.baselines.get(data)
        return aurocs[name] if isinstance(aurocs, dict) else None

    def best_baseline(self, data: DataSet) -> tuple[str, float] | None:
        """The baseline of the highest AUROC, and that; None where they failed."""
        aurocs = self.baselines.get(data)
        return max(aurocs.items(), key=itemgetter(1)) if isinstance(aurocs, dict) else None

    def reached_by(self, method: Method | None, data: DataSet) -> tuple[str, float] | None:
        """Name and last AUROC of a method, its spread added; None where there is none."""
        if method not in self.methods:
            return None
        values = self.cells[data, method].values("last_auroc")
        return (method.label, mean(values) + spread(values)) if values else None


def spread(values: Sequence[float]) -> float:
    """Standard deviation of a sample, which one value does not tell: 0."""
    return stdev(values) if len(values) > 1 else 0.0


def summarize(grid: Grid, baselines: dict[DataSet, dict[str, float] | str]) -> Summary:
    """Put together what there is of results.

    Args:
        grid: the trainings.
        baselines: as `Summary.baselines`.
    """
    results: dict[tuple[DataSet, Method], dict[int, Result | None]] = {}
    for run in grid.runs:
        results.setdefault((run.data, run.method), {})[run.seed] = grid.result(run)
    return Summary(
        data=list(dict.fromkeys(data for data, _ in results)),
        methods=list(dict.fromkeys(method for _, method in results)),
        seeds=list(dict.fromkeys(run.seed for run in grid.runs)),
        cells={key: _cell(by_seed) for key, by_seed in results.items()},
        baselines=baselines,
    )


def _cell(by_seed: dict[int, Result | None]) -> Cell:
    ended = {seed: result for seed, result in by_seed.items() if result is not None}
    return Cell(
        {seed: result for seed, result in ended.items() if not result.error},
        [result.error for result in ended.values() if result.error],
    )
