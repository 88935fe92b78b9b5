"""The plot of AUROC against the number of units."""

from pathlib import Path
from statistics import mean, stdev

from crn.experiments.tables.summary import Summary
from crn.system.files import written_whole


def write_plot(path: Path, summary: Summary) -> None:
    """Draw mean and standard deviation over seeds, beside what has no units.

    Args:
        path: a PNG file; what is there is replaced.
        summary: of one data set.
    """
    from matplotlib.figure import Figure

    (data,) = summary.data
    figure = Figure(figsize=(6.4, 4.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    counted = sorted((m for m in summary.methods if m.units), key=lambda m: m.units)
    for name, style in (
        ("best", {"color": "0.6", "marker": ".", "label": "CRN, best validation (no result)"}),
        ("last", {"color": "C0", "marker": "o", "label": "CRN, last validation"}),
    ):
        points = [(m.units, v) for m in counted if (v := summary.cells[data, m].values(name))]
        if points:
            units, values = zip(*points, strict=True)
            spread = [stdev(each) if len(each) > 1 else 0 for each in values]
            axes.errorbar(units, list(map(mean, values)), spread, capsize=3, **style)
    axes.set_xticks([method.units for method in counted])
    lines = [
        (f"{m.label}, last validation", mean(v), "C1", "--")
        for m in summary.methods
        if not m.units and (v := summary.cells[data, m].values("last"))
    ]
    if (best := summary.best_trivial(data)) is not None:
        lines.append((f"{best[0]}, the best trivial baseline", best[1], "C3", ":"))
    for label, height, colour, dashes in lines:
        axes.axhline(height, color=colour, linestyle=dashes, label=label)
    axes.set_xlabel("competitive units")
    axes.set_ylabel("AUROC of images")
    axes.set_title(f"{data.name}, mean ± standard deviation over seeds", fontsize="medium")
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small")
    with written_whole(path) as file:
        figure.savefig(file, format="png")
