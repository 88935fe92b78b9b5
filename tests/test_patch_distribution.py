"""Gaussians of features at each position of an image."""

import numpy as np
import torch
from conftest import smooth_images

from crn.methods.patch_distribution import PatchDistribution, coarse_patches


def test_coarse_patches_by_hand() -> None:
    x = smooth_images(2, 64, seed=1)
    patches = coarse_patches(x)
    assert patches.shape == (2, 48, 8, 8)
    coarse = x.numpy().reshape(2, 3, 16, 4, 16, 4).mean((3, 5))
    around = np.pad(coarse, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    for row, column in ((0, 0), (3, 5), (7, 7)):
        expected = around[:, :, 2 * row : 2 * row + 4, 2 * column : 2 * column + 4]
        np.testing.assert_allclose(
            patches[:, :, row, column], expected.reshape(2, -1), atol=1e-6, rtol=0
        )
    assert coarse_patches(x[:, :, :8, :8]).shape == (2, 48, 4, 4)


def test_the_distance_is_that_of_mahalanobis() -> None:
    """By hand: means at each position, covariances that lean on those of all positions."""
    random = torch.Generator().manual_seed(0)
    images = torch.randn(30, 3, 4, 4, generator=random)
    images[:, 1] += 0.8 * images[:, 0]
    images[:, :, 2:] *= 3
    images[:, :, :, 1] += 5
    distribution = PatchDistribution(lambda x: x, 4)
    # Of two processes, and of batches that are not alike.
    sums = distribution.sums([images[:13], images[13:15]]) + distribution.sums([images[15:]])
    distribution.fit(sums)
    assert distribution.count == 30

    pixels = images.double().numpy().reshape(30, 3, 16).transpose(2, 0, 1)
    covariances = np.stack([np.cov(each.T, bias=True) for each in pixels])
    covariances = (30 * covariances + 3 * covariances.mean(0)) / 33
    x = torch.randn(5, 3, 4, 4, generator=random)
    away = x.numpy().reshape(5, 3, 16).transpose(2, 0, 1) - pixels.mean(1, keepdims=True)
    squares = np.einsum("pni,pij,pnj->np", away, np.linalg.inv(covariances), away)
    np.testing.assert_allclose(
        distribution(x), np.sqrt(squares / 3).reshape(5, 4, 4), rtol=1e-3, atol=1e-3
    )


def test_few_and_equal_images_give_finite_maps() -> None:
    for images in (torch.zeros(1, 3, 32, 32), smooth_images(2, 32, seed=3)):
        distribution = PatchDistribution(coarse_patches, 32)
        distribution.fit(distribution.sums([images]))
        maps = distribution(images + 0.1)
        assert maps.shape == (len(images), 32, 32)
        assert maps.isfinite().all()
        assert (maps > distribution(images)).all()


def test_a_part_that_is_missing_is_found_whatever_the_networks_draw() -> None:
    """It is where normal images have it, give or take: elsewhere it would be missed by none."""
    random = torch.Generator().manual_seed(0)
    images = 0.05 * torch.randn(50, 3, 64, 64, generator=random)
    for image in images:
        at = int(torch.randint(8, (), generator=random))
        image[:, 20:30, 20 + at : 40 + at] += 0.8
    normal, test = images[:40], images[40:]
    test[5:, :, 20:30] = 0.05 * torch.randn(5, 3, 10, 64, generator=random)
    distribution = PatchDistribution(coarse_patches, 64)
    distribution.fit(distribution.sums(normal.split(16)))
    maps = distribution(test)
    assert maps[5:].amax((1, 2)).min() > 2 * maps[:5].amax((1, 2)).max()
    for place in maps[5:].flatten(1).argmax(1):
        row, column = divmod(int(place), 64)
        assert 16 <= row < 36
        assert 16 <= column < 52
