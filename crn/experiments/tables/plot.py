"""The plot of AUROC against the number of units."""

from pathlib import Path
from statistics import mean

from crn.experiments.tables.summary import Summary, spread
from crn.system.files import written_whole

# For crn with each recipe, and the control; models without units have other colours.
_COLOURS = ("C0", "C2", "C4")


def write_plot(path: Path, summary: Summary) -> None:
    """Draw mean and standard deviation over seeds, beside the models without units.

    Args:
        path: the PNG file; an existing one is replaced.
        summary: the results on one data set.
    """
    from matplotlib.figure import Figure

    (data,) = summary.data
    figure = Figure(figsize=(6.4, 4.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    counted = sorted((m for m in summary.methods if m.units), key=lambda m: m.units or 0)
    for colour, kind in zip(
        _COLOURS, dict.fromkeys((m.model, m.recipe) for m in counted), strict=False
    ):
        mine = [m for m in counted if (m.model, m.recipe) == kind]
        points = [(m.units, v) for m in mine if (v := summary.values(data, m))]
        if points:
            units, values = zip(*points, strict=True)
            means, spreads = list(map(mean, values)), list(map(spread, values))
            axes.errorbar(
                *(units, means, spreads), marker="o", color=colour, label=", ".join(kind), capsize=3
            )
    axes.set_xticks(sorted({method.units or 0 for method in counted}))
    lines = [
        (m.label, mean(v), "C1", "--")
        for m in summary.methods
        if not m.units and (v := summary.values(data, m))
    ]
    if (best := summary.best_baseline(data)) is not None:
        lines.append((f"{best[0]}: the best without training", mean(best[1]), "C3", ":"))
    for label, height, colour, dashes in lines:
        axes.axhline(height, color=colour, linestyle=dashes, label=label)
    axes.set_xlabel("competitive units")
    axes.set_ylabel("AUROC of images, last validation")
    axes.set_title(f"{data.name}, mean ± standard deviation over seeds", fontsize="medium")
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small")
    with written_whole(path) as file:
        figure.savefig(file, format="png")
