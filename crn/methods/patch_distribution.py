"""How unlikely the features at each place of an image are among those of normal images."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, pad, unfold

# Pixels of the image of which `coarse_patches` are cut, across.
COARSE = 16
PATCH = 4
# The variance that rounding images to 8 bits leaves in them: 256 steps of gray from -1 to 1.
_ROUNDING = (2 / 255) ** 2 / 12


class PatchDistribution(nn.Module):
    """A Gaussian of features at each position of an image, fitted to normal images.

    This is the idea of PaDiM (Defard et al. 2021), whose features are of a pretrained network.

    Attributes:
        count: images that it was fitted to, 0 before.
        mean: (P, 1, F), of F features at P positions.
        whitening: (P, F, F), of which each times its transpose is the inverse of a covariance.
    """

    count: Tensor
    mean: Tensor
    whitening: Tensor

    def __init__(self, features: Callable[[Tensor], Tensor], size: int) -> None:
        """Take what makes features (B, F, H, H) of images (B, 3, size, size)."""
        super().__init__()
        self.features = features
        self.size = size
        with torch.no_grad():
            _, channels, self.side, _ = features(torch.zeros(1, 3, size, size)).shape
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("mean", torch.zeros(self.side**2, 1, channels))
        self.register_buffer("whitening", torch.zeros(self.side**2, channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, S, S) of images (B, 3, S, S): the Mahalanobis distance over the root of F."""
        away = (self._by_position(x) - self.mean) @ self.whitening
        distance = away.square().mean(2).sqrt().T.reshape(-1, 1, self.side, self.side)
        return interpolate(distance, size=self.size, mode="bilinear")[:, 0]

    def _by_position(self, x: Tensor) -> Tensor:
        """Features (P, B, F)."""
        return self.features(x).flatten(2).permute(2, 0, 1)

    @torch.no_grad()
    def sums(self, batches: Iterable[Tensor]) -> Tensor:
        """Sums over normal images (B, 3, S, S), so that several processes can add theirs up.

        Returns:
            (P * F + P * F * F + 1,) float64: of features and their products, and the count.
        """
        first, second = (
            torch.zeros_like(each, dtype=torch.float64) for each in (self.mean, self.whitening)
        )
        count = 0
        for batch in batches:
            features = self._by_position(batch).double()
            first += features.sum(1, keepdim=True)
            second += features.mT @ features
            count += len(batch)
        return torch.cat([first.flatten(), second.flatten(), first.new_tensor([count])])

    @torch.no_grad()
    def fit(self, sums: Tensor) -> None:
        """Take means and covariances from `sums`.

        A position's covariance is of few images for so many features, and in textures all
        positions are alike: the mean over all positions counts for as many images as there are
        features.
        """
        count = sums[-1]
        first, second = sums[:-1].split([self.mean.numel(), self.whitening.numel()])
        mean = first.view_as(self.mean) / count
        covariance = second.view_as(self.whitening) / count - mean.mT @ mean
        channels = covariance.shape[-1]
        covariance = (count * covariance + channels * covariance.mean(0)) / (count + channels)
        rounding = _ROUNDING * torch.eye(channels, dtype=sums.dtype, device=sums.device)
        self.mean.copy_(mean)
        self.whitening.copy_(torch.linalg.cholesky(torch.linalg.inv(covariance + rounding)))
        self.count.copy_(count)


def coarse_patches(x: Tensor) -> Tensor:
    """The patches of an image at 16 pixels across, 4 pixels wide and 2 apart.

    Args:
        x: images, (B, 3, S, S), S a power of two.

    Returns:
        (B, 3 * 4 * 4, H, H), H half of the lesser of S and 16.
    """
    coarse = avg_pool2d(x, max(1, x.shape[-1] // COARSE))
    side = coarse.shape[-1] // 2
    patches = unfold(pad(coarse, (1, 1, 1, 1), mode="replicate"), PATCH, stride=2)
    return patches.unflatten(2, (side, side))
