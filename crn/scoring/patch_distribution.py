"""How unlikely the features at each place of an image are, given normal images."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from crn.scoring.patch_features import PatchFeatures

# The variance that rounding images to 8 bits leaves in them: 256 steps of gray from -1 to 1.
_ROUNDING = (2 / 255) ** 2 / 12
# Parts of the normal images; each is measured by a fit to the others.
FOLDS = 5
# Images whose features are multiplied at a time.
_BATCH = 32


class PatchDistribution(nn.Module):
    """A Gaussian of F features at each of P = G x G positions, fitted to normal images.

    This is PaDiM (Defard et al. 2021), except that each covariance is shrunk towards the mean over
    all positions.

    Attributes:
        features: compute the features of images.
        count: number of images that it was fitted to, 0 before.
        mean: (P, 1, F).
        whitening: (P, F, F); each W satisfies W W^T = inverse of the covariance.
    """

    count: Tensor
    mean: Tensor
    whitening: Tensor

    def __init__(self, features: PatchFeatures) -> None:
        super().__init__()
        self.features = features
        positions, channels = features.side**2, features.channels
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("mean", torch.zeros(positions, 1, channels))
        self.register_buffer("whitening", torch.zeros(positions, channels, channels))

    def forward(self, images: Tensor) -> Tensor:
        """The `distances` (B, G, G) of images (B, 3, L, L) in [-1, 1]; L is ``image_size``."""
        return self.distances(self.features(images))

    def distances(self, features: Tensor) -> Tensor:
        """Mahalanobis distances (B, G, G) of features (B, F, G, G), divided by the root of F."""
        away = (_by_position(features) - self.mean) @ self.whitening
        side = self.features.side
        return away.square().mean(2).sqrt().T.unflatten(1, (side, side))

    @torch.no_grad()
    def sums(self, batches: Iterable[Tensor]) -> Tensor:
        """Sums over features (B, F, G, G), which several processes can add up.

        Returns:
            (P * F + P * F * F + 1,) float64: sums of features and of their products, and the
            number of images.
        """
        first, second = (torch.zeros_like(each).double() for each in (self.mean, self.whitening))
        count = 0
        for batch in batches:
            features = _by_position(batch.to(first))
            first += features.sum(1, keepdim=True)
            second += features.mT @ features
            count += len(batch)
        return torch.cat([first.flatten(), second.flatten(), first.new_tensor([count])])

    @torch.no_grad()
    def fit(self, sums: Tensor) -> None:
        """Set means and covariances from `sums`.

        There are few images for so many features, and in textures all positions are alike: each
        covariance is shrunk towards the mean over all positions, as if that came from F images.
        """
        count = sums[-1]
        first, second = sums[:-1].split([self.mean.numel(), self.whitening.numel()])
        mean = first.view_as(self.mean) / count
        covariance = second.view_as(self.whitening) / count - mean.mT @ mean
        channels = covariance.shape[-1]
        covariance = (count * covariance + channels * covariance.mean(0)) / (count + channels)
        variance = covariance.diagonal(dim1=-2, dim2=-1).mean()
        least = _ROUNDING + self.features.least_variance * variance
        identity = torch.eye(channels, dtype=sums.dtype, device=sums.device)
        triangle = torch.linalg.cholesky(covariance + least * identity)
        inverse = torch.linalg.solve_triangular(triangle, identity, upper=False)
        self.mean.copy_(mean)
        self.whitening.copy_(inverse.mT)
        self.count.copy_(count)

    @torch.no_grad()
    def fit_held_out(
        self, features: Tensor, share: slice, total: int, add_up: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Fit to all normal images, and measure each by a fit that has not seen it.

        Distances from a fit to the images themselves are far too small: there are more features
        than images. So the images are split into `FOLDS` runs of consecutive images, since
        neighbours in a data set often show the same thing, and each run is measured by a fit to the
        others.

        Args:
            features: (N, F, G, G), of this process's share of the images.
            share: the indices of this share among all images.
            total: the number of all images.
            add_up: sums a tensor over all processes.

        Returns:
            The distances (N, G, G); a single image is measured by the fit to itself.
        """
        folds = min(FOLDS, total)
        fold = (torch.arange(total) * folds // total)[share]
        parts = features.split(torch.bincount(fold, minlength=folds).tolist())
        sums = add_up(torch.stack([self.sums(part.split(_BATCH)) for part in parts]))
        distances = []
        for part, mine in zip(parts, sums, strict=True):
            self.fit(sums.sum(0) - mine if folds > 1 else mine)
            distances += [self.distances(batch.to(self.mean)) for batch in part.split(_BATCH)]
        self.fit(sums.sum(0))
        return torch.cat(distances)


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


def _by_position(features: Tensor) -> Tensor:
    """From (B, F, G, G) to (P, B, F)."""
    return features.flatten(2).permute(2, 0, 1)
