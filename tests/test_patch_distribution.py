"""Gaussians of features at each position of an image."""

import numpy as np
import pytest
import torch
from conftest import smooth_images

from crn.scoring.patch_distribution import PatchDistribution
from crn.scoring.patch_features import CoarsePatches, PatchFeatures


def test_coarse_patches_by_hand() -> None:
    x = smooth_images(2, 64, seed=1)
    patches = CoarsePatches(64)(x)
    assert patches.shape == (2, 48, 8, 8)
    coarse = x.numpy().reshape(2, 3, 16, 4, 16, 4).mean((3, 5))
    around = np.pad(coarse, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    for row, column in ((0, 0), (3, 5), (7, 7)):
        expected = around[:, :, 2 * row : 2 * row + 4, 2 * column : 2 * column + 4]
        np.testing.assert_allclose(
            patches[:, :, row, column], expected.reshape(2, -1), atol=1e-6, rtol=0
        )
    assert CoarsePatches(8)(x[:, :, :8, :8]).shape == (2, 48, 4, 4)


class Pixels(PatchFeatures):
    """The channels of each pixel."""

    channels = 3

    def __init__(self, size: int, least_variance: float = 0) -> None:
        super().__init__()
        self.image_size = self.side = size
        self.least_variance = least_variance

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images


def fitted(features: PatchFeatures, images: torch.Tensor) -> PatchDistribution:
    distribution = PatchDistribution(features)
    distribution.fit(distribution.sums([features(images)]))
    return distribution


@pytest.mark.parametrize("least", [0, 0.3])
def test_the_distance_is_that_of_mahalanobis(least: float) -> None:
    """By hand: means at each position, covariances that lean on those of all positions."""
    random = torch.Generator().manual_seed(0)
    images = torch.randn(30, 3, 4, 4, generator=random)
    images[:, 1] += 0.8 * images[:, 0]
    images[:, :, 2:] *= 3
    images[:, :, :, 1] += 5
    distribution = PatchDistribution(Pixels(4, least))
    # Of two processes, and of batches that are not alike.
    sums = distribution.sums([images[:13], images[13:15]]) + distribution.sums([images[15:]])
    distribution.fit(sums)
    assert distribution.count == 30

    pixels = images.double().numpy().reshape(30, 3, 16).transpose(2, 0, 1)
    covariances = np.stack([np.cov(each.T, bias=True) for each in pixels])
    covariances = (30 * covariances + 3 * covariances.mean(0)) / 33
    covariances += least * np.einsum("pii->", covariances) / 16 / 3 * np.eye(3)
    x = torch.randn(5, 3, 4, 4, generator=random)
    away = x.numpy().reshape(5, 3, 16).transpose(2, 0, 1) - pixels.mean(1, keepdims=True)
    squares = np.einsum("pni,pij,pnj->np", away, np.linalg.inv(covariances), away)
    np.testing.assert_allclose(
        distribution(x), np.sqrt(squares / 3).reshape(5, 4, 4), rtol=1e-3, atol=1e-3
    )


def test_few_and_equal_images_give_finite_maps() -> None:
    for images in (torch.zeros(1, 3, 32, 32), smooth_images(1, 32, 3), smooth_images(2, 32, 3)):
        distribution, count = PatchDistribution(CoarsePatches(32)), len(images)
        features = distribution.features(images)
        held_out = distribution.fit_held_out(features, slice(0, count), count, lambda sums: sums)
        # A single image has no others to be measured by.
        assert (held_out - distribution(images)).any() == (count > 1)
        maps = distribution(images + 0.1)
        assert maps.shape == (len(images), 8, 8)
        assert maps.isfinite().all()
        assert (maps > distribution(images)).all()


def test_normal_images_are_measured_by_fits_that_have_not_seen_them() -> None:
    """In one process, and in two that add their sums up."""
    images = torch.randn(13, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    alone = PatchDistribution(Pixels(4))
    held_out = alone.fit_held_out(images, slice(0, 13), 13, lambda sums: sums)
    folds = [range(0, 3), range(3, 6), range(6, 8), range(8, 11), range(11, 13)]
    for fold in folds:
        others = [image for image in range(13) if image not in fold]
        expected = fitted(Pixels(4), images[others])(images[list(fold)])
        torch.testing.assert_close(held_out[list(fold)], expected)
    # New images are measured by all of them.
    torch.testing.assert_close(alone(images + 1), fitted(Pixels(4), images)(images + 1))
    assert held_out.mean() > 1.1 * alone(images).mean()

    first, second = PatchDistribution(Pixels(4)), PatchDistribution(Pixels(4))
    kept: list[torch.Tensor] = []
    first.fit_held_out(images[:6], slice(0, 6), 13, lambda sums: kept.append(sums) or sums)
    mine = second.fit_held_out(images[6:], slice(6, 13), 13, lambda sums: sums + kept[0])
    torch.testing.assert_close(mine, held_out[6:])
    torch.testing.assert_close(second.whitening, alone.whitening)
