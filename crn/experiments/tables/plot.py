"""The plot of AUROC against the number of units."""

from itertools import cycle
from pathlib import Path
from statistics import mean

from crn.experiments.tables.summary import Summary, spread
from crn.system.files import written_whole

# For crn with each recipe, and the control; models without units have other colours.
_COLOURS = ("C0", "C2", "C4")


def write_plot(path: Path, summary: Summary) -> None:
    """Draw mean and standard deviation over seeds, of one data set, as PNG."""
    from matplotlib.figure import Figure

    (data,) = summary.data
    figure = Figure(figsize=(6.4, 4.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    curves: dict[str, dict[int, list[float]]] = {}
    lines = []
    for method in summary.methods:
        values = summary.values(data, method)
        if method.units and values:
            curves.setdefault(f"{method.model}, {method.recipe}", {})[method.units] = values
        elif values:
            lines.append((method.label, mean(values), "C1", "--"))
    if (best := summary.best_baseline(data)) is not None:
        lines.append((f"{best[0]}: the best without training", mean(best[1]), "C3", ":"))
    for (label, curve), colour in zip(curves.items(), cycle(_COLOURS), strict=False):
        units = sorted(curve)
        means, spreads = ([f(curve[n]) for n in units] for f in (mean, spread))
        axes.errorbar(units, means, spreads, marker="o", color=colour, label=label, capsize=3)
    for label, height, colour, dashes in lines:
        axes.axhline(height, color=colour, linestyle=dashes, label=label)
    axes.set_xticks(sorted({method.units for method in summary.methods if method.units}))
    axes.set_xlabel("competitive units")
    axes.set_ylabel("AUROC of images, last validation")
    axes.set_title(f"{data.name}, mean ± standard deviation over seeds", fontsize="medium")
    axes.grid(alpha=0.3)
    if curves or lines:
        axes.legend(fontsize="small")
    with written_whole(path) as file:
        figure.savefig(file, format="png")
