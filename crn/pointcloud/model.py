"""Anomaly maps of tiles by a trained model: the only part of this package that knows models.

Tiles are processed like RoadImages files, so they score as in ``--mode inference``.
"""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from crn.checkpoints.model import model_of
from crn.checkpoints.reading import read_checkpoint
from crn.errors import UserError
from crn.evaluation.thresholds import thresholds_from_file
from crn.pointcloud.tiles import TileSet, parse_tile_set
from crn.system.hardware import pick_device, set_up_cpu
from datasets.reader import normalize, resize

_BATCH = 64


class TileScorer:
    """Scores tiles by a trained model.

    Attributes:
        name: the checkpoint and the anomaly score.
        model: the model.
    """

    def __init__(self, path: Path, pairs: str | None, anomaly_score: str | None, cpu: bool) -> None:
        """Read a checkpoint.

        Args:
            path: the file.
            pairs: one of `crn.config.PAIRS`; None: as trained.
            anomaly_score: one of `crn.config.SCORES`; None: as trained.
            cpu: do not use a GPU.

        Raises:
            UserError: the checkpoint cannot be used.
        """
        if not path.exists():
            raise UserError(f"--model-input {path}: no such file; give the checkpoint of a model")
        set_up_cpu()
        checkpoint = read_checkpoint(path)
        scoring = checkpoint.config.scoring
        scoring = replace(
            scoring,
            pairs=pairs or scoring.pairs,
            anomaly_score=anomaly_score or scoring.anomaly_score,
        )
        self._asked = path.absolute(), pairs, anomaly_score, cpu
        self._device = pick_device(cpu)
        self._tiles = checkpoint.content.get("tiles")
        self.model = model_of(checkpoint, scoring, self._device)
        self.name = f"{scoring.anomaly_score} score of {path}"

    def __reduce__(self) -> tuple:
        # Other processes read the checkpoint themselves.
        return _scorer, self._asked

    def tile_set(self, given: TileSet | None) -> TileSet:
        """The settings of its training tiles.

        Args:
            given: those of ``--tiles-from``; None: the checkpoint has to carry them.

        Raises:
            UserError: it does not, or they differ.
        """
        path = self._asked[0]
        own = given
        if self._tiles is not None:
            own = parse_tile_set(str(self._tiles), f"--model-input {path}")
        if own is None:
            raise UserError(
                f"--model-input {path}: does not say which tiles it was trained on; give "
                "--tiles-from their tiles.json"
            )
        if given not in (None, own):
            raise UserError(
                f"--tiles-from: describes other tiles ({given}) than {path} was trained on "
                f"({own}); leave the flag out"
            )
        return own

    @property
    def tags(self) -> dict[str, str]:
        """See `crn.pointcloud.mosaic.Scorer`."""
        scoring = self.model.config.scoring
        return {
            "model": str(self._asked[0]),
            "weights": self.model.fingerprint,
            "anomaly_score": scoring.anomaly_score,
            "pairs": scoring.pairs,
        }

    def threshold_from(self, metrics: Path) -> float:
        """The pixel threshold in the metrics.json of an inference with this model.

        Raises:
            UserError: the file cannot be used, or belongs to another model or score.
        """
        scoring, weights = self.model.config.scoring, self.model.fingerprint
        threshold = thresholds_from_file(metrics, scoring, weights).pixel
        assert threshold is not None
        return threshold

    @torch.inference_mode()
    def __call__(self, height: np.ndarray, intensity: np.ndarray) -> np.ndarray:
        """See `crn.pointcloud.mosaic.Scorer`.

        Raises:
            UserError: a score is not finite.
        """
        maps = [
            self._score(height[start : start + _BATCH], intensity[start : start + _BATCH])
            for start in range(0, len(height), _BATCH)
        ]
        scores = torch.cat(maps).numpy()
        if not np.isfinite(scores).all():
            raise UserError(f"{self.name}: is not finite; the training diverged")
        return scores

    def _score(self, height: np.ndarray, intensity: np.ndarray) -> Tensor:
        side, size = height.shape[1], self.model.config.network.imsize
        # As in datasets.reader: 16 bits on the scale of 8, each layer resized in its own type.
        layers = torch.from_numpy(height.astype(np.float32) / 257), torch.from_numpy(intensity)

        def stacked(size: int) -> Tensor:
            h, i = (resize(layer, (size, size)).float() for layer in layers)
            return normalize(torch.stack((h, i, i), 1).to(self._device))

        patches, patch_size = self.model.scorer.patches, self.model.patch_image_size or size
        distances = None
        if patches is not None and patch_size != size:
            distances = patches(stacked(patch_size))
        maps = self.model.score(stacked(size), distances).maps
        asked = maps[self.model.config.scoring.anomaly_score]
        return interpolate(asked[:, None], (side, side), mode="bilinear")[:, 0].cpu()


@lru_cache(maxsize=1)
def _scorer(path: Path, pairs: str | None, anomaly_score: str | None, cpu: bool) -> TileScorer:
    return TileScorer(path, pairs, anomaly_score, cpu)
