"""The normal images that a patch distribution was fitted to, and their distances."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class HeldOut:
    """Distances of the normal images that a model's patches were fitted to, by fits without them.

    A distribution finds the images that it was fitted to far too normal. Wherever one of them is
    scored, these distances take the place of its own.

    Attributes:
        identities: (N, 16) uint8, from `datasets.samples.Sample.identity`.
        distances: (N, G, G), as returned by `PatchDistribution.distances`.
    """

    identities: Tensor
    distances: Tensor

    @classmethod
    def of(cls, identities: Sequence[bytes], distances: Tensor) -> "HeldOut":
        """The distances (N, G, G) of images with these N identities."""
        flat = torch.frombuffer(bytearray(b"".join(identities)), dtype=torch.uint8)
        return cls(flat.view(len(identities), -1), distances)

    def find(self, identity: bytes) -> Tensor | None:
        """The distances (G, G) of an image; None where the patches were not fitted to it."""
        index = self._index.get(identity)
        return None if index is None else self.distances[index]

    @cached_property
    def _index(self) -> dict[bytes, int]:
        rows = self.identities.numpy()
        return {row.tobytes(): index for index, row in enumerate(rows)}
