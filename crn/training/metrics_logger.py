"""The logger of metrics.csv."""

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import yaml

from crn.system.files import append_whole, claim_version, written_whole


class MetricsLogger(pl.loggers.logger.Logger):
    """Writes hparams.yaml and metrics.csv, with a row for every report, in a folder of the run.

    The file is whole whenever the run is killed. Lightning's CSVLogger empties it for a moment when
    a report has new columns, and leaves half a row on a full disk.

    Raises:
        UserError: by all methods, if the system refuses to write.
    """

    def __init__(self, folder: Path) -> None:
        """Make version_N in a folder, with the lowest free N."""
        super().__init__()
        self._version = claim_version(folder)
        self.folder = folder / f"version_{self._version}"
        self._table = self.folder / "metrics.csv"
        self._columns: list[str] = []

    @property
    def name(self) -> str:
        """The empty name: the version alone tells runs apart."""
        return ""

    @property
    def version(self) -> int:
        """The N of version_N."""
        return self._version

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        """Write hparams.yaml."""
        with written_whole(self.folder / "hparams.yaml", "w", encoding="utf-8") as file:
            yaml.safe_dump(params, file)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add a row."""
        row = {**metrics, "step": step}
        if row.keys() <= set(self._columns):
            append_whole(self._table, self._lines([row]))
            return
        rows = []
        if self._columns:
            with open(self._table, newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
        self._columns = sorted({*self._columns, *row})
        header = dict(zip(self._columns, self._columns, strict=True))
        with written_whole(self._table, "w", newline="", encoding="utf-8") as file:
            file.write(self._lines([header, *rows, row]))

    def _lines(self, rows: Iterable[Mapping[str, Any]]) -> str:
        text = io.StringIO()
        csv.DictWriter(text, self._columns).writerows(rows)
        return text.getvalue()
