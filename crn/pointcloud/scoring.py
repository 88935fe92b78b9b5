"""Tiles to anomaly maps by a trained model: the only part of this package that knows models.

A tile's pixels take the way of those of a RoadImages file, so a tile scores as it would in
``--mode inference``.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from crn.checkpoints.reading import TrainedModel, load_model
from crn.command_line import parse_options
from crn.config import Scoring
from crn.errors import UserError
from crn.evaluation.maps import smoothed, smoothing_matrix
from crn.evaluation.thresholds import fingerprint, thresholds_from_file
from crn.system.hardware import pick_device, set_up_cpu
from datasets.memory import normalize
from datasets.reader import resize

_BATCH = 64


@dataclass(frozen=True)
class TileScorer:
    """A trained model.

    Attributes:
        name: the checkpoint and the anomaly score.
        path: the checkpoint.
        model: its networks.
        anomaly_score: whose maps are used.
        smoothing: the matrix of `crn.evaluation.maps.smoothing_matrix`.
        device: where it computes.
    """

    name: str
    path: Path
    model: TrainedModel
    anomaly_score: str
    smoothing: Tensor
    device: torch.device

    @classmethod
    def from_checkpoint(
        cls, path: Path, pairs: str, anomaly_score: str | None, cpu: bool
    ) -> "TileScorer":
        """Read a checkpoint.

        Args:
            path: the file.
            pairs: "best" or "all".
            anomaly_score: of `crn.config.SCORES`; that of the training where None.
            cpu: whether to leave a GPU alone.

        Raises:
            UserError: the checkpoint cannot be used.
        """
        set_up_cpu()
        device = pick_device(cpu)
        model = load_model(path, pairs, device)
        score = anomaly_score or model.config.anomaly_score
        matrix = smoothing_matrix(Scoring().map_smoothing, model.config.network.imsize)
        return cls(f"{score} score of {path}", path, model, score, matrix.to(device), device)

    def threshold_from(self, metrics: Path) -> float:
        """The pixel threshold in the metrics.json of an inference with this model.

        Raises:
            UserError: the file cannot be used, or is of another model or score.
        """
        data = ("--dataset", "RoadImages", "--dataset-path", str(self.path.parent))
        words = ("--mode", "inference", "--model-input", str(self.path), *data)
        more = ("--threshold-from", str(metrics))
        pairs = ("--pairs", self._pairs, "--anomaly-score", self.anomaly_score)
        options = parse_options([*words, *more, *pairs])
        threshold = thresholds_from_file(options, fingerprint(self.model)).pixel
        assert threshold is not None
        return threshold

    @property
    def _pairs(self) -> str:
        return "best" if len(self.model.scorer.pairs) == 1 else "all"

    @torch.inference_mode()
    def __call__(self, height: np.ndarray, intensity: np.ndarray) -> np.ndarray:
        """See `crn.pointcloud.score.Scorer`.

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
        # As datasets.reader has it: 16 bits on the scale of 8, each layer resized in its own type.
        layers = torch.from_numpy(height.astype(np.float32) / 257), torch.from_numpy(intensity)
        h, i = (resize(layer, (size, size)).float() for layer in layers)
        x = normalize(torch.stack((h, i, i), 1).to(self.device))
        _, maps = self.model.scorer.score(x)
        smooth = smoothed(maps[self.anomaly_score], self.smoothing)
        return torch.nn.functional.interpolate(smooth[:, None], (side, side), mode="bilinear")[
            :, 0
        ].cpu()
