"""The anomaly maps of a run, and their resizing to the size of an image."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor
from torch.nn.functional import interpolate


@dataclass(frozen=True)
class AnomalyMaps:
    """The maps of all images for one score; higher means more anomalous.

    Attributes:
        scored: (N, S, S); image scores, pixel thresholds, pixel metrics, pictures and stored maps
            come from these.
    """

    scored: Tensor

    @cached_property
    def range(self) -> tuple[float, float]:
        """The lowest and the highest value of the maps."""
        low, high = self.scored.aminmax()
        return float(low), float(high)


def at_size(anomaly_map: Tensor, size: tuple[int, int]) -> np.ndarray:
    """Resize a map (S, S) to (height, width), bilinear; float32."""
    return interpolate(anomaly_map[None, None], size, mode="bilinear")[0, 0].numpy()
