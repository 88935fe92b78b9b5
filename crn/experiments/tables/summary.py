"""The results of a table: each method on each data set, over its seeds."""

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from crn.experiments.tables.runs import DataSet, Table, TableMethod

BASELINES = (
    *("brightness", "contrast", "gradient energy", "mean image"),
    *("standardised mean image", "high-pass image", "untrained features", "coarse patches"),
    *("centred mean image", "centred high-pass image", "centred untrained features"),
    "centred coarse patches",
)
# Seeds of the networks behind the untrained features: a single one may be lucky.
UNTRAINED_SEEDS = range(5)

# For each data set the AUROCs of each baseline, or why these could not be computed.
Baselines = Mapping[DataSet, dict[str, list[float]] | str]


class Summary:
    """All results of a table: its data sets, its trained methods, their seeds, the baselines."""

    def __init__(self, table: Table, baselines: Baselines) -> None:
        self.data = list(dict.fromkeys(run.data for run in table.runs))
        self.methods = list(dict.fromkeys(run.method for run in table.runs))
        self.seeds = list(dict.fromkeys(run.seed for run in table.runs))
        self.baselines = baselines
        self._results = table.results

    def values(self, data: DataSet, method: TableMethod, name: str = "last_auroc") -> list[Any]:
        """One field of `Result`, for every seed that has it."""
        results = (
            result
            for run, result in self._results.items()
            if (run.data, run.method) == (data, method)
        )
        return [value for each in results if (value := getattr(each, name)) not in (None, "")]

    def averages(self, method: TableMethod) -> list[float]:
        """For each seed, the mean last AUROC over the data sets with results.

        Seeds that lack one of these data sets are left out.
        """
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
        """The AUROCs of a baseline; empty if it failed."""
        aurocs = self.baselines[data]
        return aurocs[name] if isinstance(aurocs, dict) else []

    def baseline_averages(self, name: str) -> list[float]:
        """For each value of a baseline, the mean over the data sets that have it."""
        aurocs = filter(None, (self.baseline(data, name) for data in self.data))
        return [mean(each) for each in zip(*aurocs, strict=True)]

    def best_baseline(self, data: DataSet) -> tuple[str, list[float]] | None:
        """The baseline with the highest mean AUROC, and its AUROCs; None if all failed."""
        aurocs = self.baselines[data]
        return None if isinstance(aurocs, str) else max(aurocs.items(), key=lambda x: mean(x[1]))

    def rivals(self, method: TableMethod, data: DataSet) -> dict[str, tuple[str, list[float]]]:
        """What a method is compared with: names and AUROCs of the best baseline and the control."""
        rivals = {}
        if best := self.best_baseline(data):
            rivals["the best baseline"] = best
        if (control := method.control) and (aurocs := self.values(data, control)):
            rivals["its control"] = control.label, aurocs
        return rivals


def spread(values: Sequence[float]) -> float:
    """Standard deviation of a sample; 0 for a single value."""
    return stdev(values) if len(values) > 1 else 0.0
