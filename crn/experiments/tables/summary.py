"""Trainings of a table put together: each method on each data set, over its seeds."""

from collections.abc import Sequence
from statistics import mean, stdev

from crn.experiments.tables.runs import DataSet, Table, TableMethod

BASELINES = (
    *("brightness", "contrast", "gradient energy", "mean image"),
    *("standardised mean image", "high-pass image", "untrained features", "coarse patches"),
    *("centred mean image", "centred high-pass image", "centred untrained features"),
    "centred coarse patches",
)
# Of the networks whose features are untrained: one alone may be lucky.
UNTRAINED_SEEDS = range(5)


class Summary:
    """All results of a table.

    Attributes:
        data: rows.
        methods: what was trained.
        seeds: of the trainings.
        baselines: data set to baseline to AUROC, one or several; the error where there is none.
    """

    def __init__(
        self, table: Table, baselines: dict[DataSet, dict[str, list[float]] | str]
    ) -> None:
        self.data = list(dict.fromkeys(run.data for run in table.runs))
        self.methods = list(dict.fromkeys(run.method for run in table.runs))
        self.seeds = list(dict.fromkeys(run.seed for run in table.runs))
        self.baselines = baselines
        self._results = {run: result for run in table.runs if (result := table.result(run))}

    def values(self, data: DataSet, method: TableMethod, metric: str = "last_auroc") -> list[float]:
        """One figure of `Result`, of every seed that has it."""
        return [
            value
            for run, result in self._results.items()
            if (run.data, run.method) == (data, method)
            and (value := getattr(result, metric)) is not None
        ]

    def errors(self, data: DataSet, method: TableMethod) -> list[str]:
        """Why trainings failed."""
        return [
            result.error
            for run, result in self._results.items()
            if (run.data, run.method) == (data, method) and result.error
        ]

    def averages(self, method: TableMethod) -> list[float]:
        """The mean last AUROC over data sets, for every seed that has ended on all that have."""
        aurocs = {
            (run.data, run.seed): result.last_auroc
            for run, result in self._results.items()
            if run.method == method and result.last_auroc is not None
        }
        data = {each for each, _ in aurocs}
        return [
            mean(aurocs[each, seed] for each in data)
            for seed in self.seeds
            if data and all((each, seed) in aurocs for each in data)
        ]

    def baseline(self, data: DataSet, name: str) -> list[float]:
        """AUROC of a baseline, one or several; none where it failed."""
        aurocs = self.baselines[data]
        return aurocs[name] if isinstance(aurocs, dict) else []

    def best_baseline(self, data: DataSet) -> tuple[str, list[float]] | None:
        """The baseline of the highest mean AUROC, and its figures; None where they failed."""
        aurocs = self.baselines[data]
        if isinstance(aurocs, str):
            return None
        return max(aurocs.items(), key=lambda item: mean(item[1]))

    def reached_by(
        self, method: TableMethod | None, data: DataSet
    ) -> tuple[str, list[float]] | None:
        """Name and last AUROC of a method, of every seed; None where there is none."""
        if method is None or not (values := self.values(data, method)):
            return None
        return method.label, values


def spread(values: Sequence[float]) -> float:
    """Standard deviation of a sample, which one value does not tell: 0."""
    return stdev(values) if len(values) > 1 else 0.0
