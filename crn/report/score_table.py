"""The table of scores, a CSV file with a row for every image."""

import csv
from pathlib import Path

from crn.config import SCORES
from crn.evaluation.results import InferenceResults
from crn.system.files import set_aside, written_whole
from crn.system.text import spreadsheet_cell

SCORES_FILE = Path("anomaly_scores.csv")


def write_score_table(path: Path, results: InferenceResults) -> None:
    """Write the table; the score that was asked for comes first, and unknown cells are empty."""
    names = [results.score, *(name for name in SCORES if name != results.score)]
    threshold = "" if results.threshold is None else f"{results.threshold:.8g}"
    set_aside(path)
    with written_whole(path, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file", "split", "label", *names, "threshold", "decision"])
        for image in results.images:
            scores = [f"{image.scores[name]:.8g}" for name in names]
            # csv writes None as an empty cell.
            row = [
                spreadsheet_cell(image.key),
                image.split,
                image.label,
                *scores,
                threshold,
                image.decision,
            ]
            table.writerow(row)
