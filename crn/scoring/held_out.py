"""The images that a patch distribution was fitted to, and their distances by fits without them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class HeldOut:
    """What is known of the normal images that a model's patches were fitted to.

    A distribution measures its own images as far too normal. Wherever one of them is scored, its
    distances are these, which come from a fit to other images.

    Attributes:
        identities: (N, 16) uint8, of `datasets.samples.Sample.identity`.
        distances: (N, G, G), as `PatchDistribution.distances` has them.
    """

    identities: Tensor
    distances: Tensor

    @classmethod
    def of(cls, identities: Sequence[bytes], distances: Tensor) -> "HeldOut":
        """Those of some images, in one order."""
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
