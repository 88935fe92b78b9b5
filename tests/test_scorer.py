"""The scorer: pairs combined, maps smoothed, measured against normal images, and pooled."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from conftest import model_config, smooth_images
from scipy.ndimage import gaussian_filter

from crn.config import SCORES, Competition, Network, Scoring
from crn.methods import make_method
from crn.scoring.kinds import KINDS, MeasuredMap
from crn.scoring.scorer import PATCHES, Scorer

config = partial(model_config, network=Network(imsize=8, max_network_depth=2))
MAPS = (*SCORES, PATCHES)


def maps_of_normal_images(count: int = 20, size: int = 8) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(4)
    where = torch.linspace(0.01, 2, size)  # errors are larger on the right
    return {name: torch.rand(count, size, size, generator=random) * where for name in MAPS}


def known_to(scorer: Scorer, maps: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: maps[name] for name in scorer.map_names}


@pytest.mark.parametrize("smoothing", [0.0, 20.0])
@pytest.mark.parametrize("maps", ["standardised", "centred", "combined"])
def test_maps_against_normal_images_by_hand(maps: str, smoothing: float) -> None:
    scoring = Scoring(maps=maps, pooling="max", map_smoothing=smoothing)
    scorer = Scorer(config(scoring=scoring))
    normal = maps_of_normal_images()
    batches = [{k: v[part] for k, v in normal.items()} for part in (slice(0, 13), slice(13, 20))]
    scorer.measure(scorer.sums(map(scorer.smooth, batches)), step=5)
    assert scorer.step == 5

    name, x = "residual", maps_of_normal_images(3)
    scored, scores = scorer.measured(scorer.smooth(known_to(scorer, x)))
    sigma = (0, *([smoothing / 100 * 8] * 2))

    def measured(name: str) -> np.ndarray:
        both = (gaussian_filter(m[name].numpy(), sigma, mode="reflect") for m in (normal, x))
        before, mine = (p if maps == "standardised" else np.log(p + 2 / 255) for p in both)
        deviation = before.std(0)
        deviation = np.maximum(deviation, 0.25 * deviation.mean())
        return (mine - before.mean(0)) / deviation

    expected = measured(name)
    if maps == "combined":
        expected += measured(PATCHES)
    if maps != "standardised":
        pixels = np.sort(expected.reshape(3, -1), axis=1)
        expected -= pixels[:, (pixels.shape[1] - 1) // 2, None, None]
    np.testing.assert_allclose(scored[name], expected, atol=2e-4)
    np.testing.assert_allclose(scores[name], expected.max((1, 2)), atol=2e-4)


def test_shifts_of_whole_maps_are_limited_and_maps_are_added_by_their_weights() -> None:
    """By hand: what is far from normal as a whole is not all taken for light."""
    flat, deviation = torch.zeros(2, 1, 1), torch.full((2, 1, 1), 0.5)
    for pixels, expected in ((0.75, 0.0), (3.0, 4.0), (-3.0, -4.0)):
        whole = MeasuredMap(torch.full((1, 3, 3), pixels), flat, deviation, False, most_shift=2)
        assert (KINDS["centred"].score(whole) == expected).all()
        assert not KINDS["centred"].score(replace(whole, most_shift=None)).any()
    lines = torch.tensor([[[0.0, 3.0, 9.0]]]), torch.tensor([[[1.0, 1.0, 5.0]]])
    for most, expected in (
        (2, [-1.0, 0.5, 7.5]),  # (0, 3, 9) less 2, half of it, and (1, 1, 5) less 1
        (None, [-1.5, 0.0, 7.0]),  # (1, 2.5, 9.5) less the middle
    ):
        one, other = (MeasuredMap(x, flat, flat + 1, False, most_shift=most) for x in lines)
        total = KINDS["combined"].score(replace(one, weight=0.5), other)
        assert total.flatten().tolist() == expected


def test_the_logarithm_keeps_the_order_of_maps_of_both_signs() -> None:
    """Discrimination is negative."""
    scorer = Scorer(config(scoring=Scoring(maps="centred", map_smoothing=0)))
    pixels = torch.linspace(-2, 2, 64).view(1, 8, 8)
    scored, _ = scorer.measured(dict.fromkeys(SCORES, pixels))
    assert (scored["residual"].flatten().diff() > 0).all()


def test_where_normal_images_do_not_differ_maps_stay_finite() -> None:
    scorer = Scorer(config(scoring=Scoring(maps="standardised")))
    still = dict.fromkeys(SCORES, torch.ones(4, 8, 8))
    scorer.measure(scorer.sums([still]), step=1)
    scored, _ = scorer.measured(dict.fromkeys(SCORES, torch.full((1, 8, 8), 2.0)))
    assert scored["residual"].isfinite().all()


# A hundredth of 441 pixels is more than four of them.
@pytest.mark.parametrize(("pooling", "expected"), [("mean", 220), ("max", 440), ("top", 438)])
def test_pooling_by_hand(pooling: str, expected: float) -> None:
    scorer = Scorer(config(scoring=Scoring(pooling=pooling, map_smoothing=0)))
    maps = dict.fromkeys(SCORES, torch.arange(441.0).view(1, 21, 21))
    assert scorer.measured(maps)[1]["residual"].tolist() == pytest.approx([expected])


@pytest.mark.parametrize("pairs", ["lowest", "all"])
def test_maps_of_pairs_are_smoothed_and_then_combined(pairs: str) -> None:
    """By hand from those of single pairs: smoothing and the minimum do not change places."""
    torch.manual_seed(0)
    scoring = Scoring(pairs=pairs, map_smoothing=20)
    mine = config(scoring=scoring, competition=Competition(3))
    method, scorer = make_method(mine).eval(), Scorer(mine)
    x = smooth_images(2, 8, seed=3)
    combine = np.min if pairs == "lowest" else np.mean
    with torch.no_grad():
        reconstruction, maps = scorer.smooth_maps(method, x)
        each = list(method.anomaly_maps(x, method.pairs(pairs)))
    for name in SCORES:
        smooth = [gaussian_filter(m[name], (0, 1.6, 1.6), mode="reflect") for _, m in each]
        np.testing.assert_allclose(maps[name], combine(smooth, axis=0), atol=1e-5)
    assert reconstruction is not None
    np.testing.assert_allclose(reconstruction, np.mean([r for r, _ in each], 0), atol=1e-5)


def test_patches_see_the_image_and_their_map_is_enlarged_evenly_and_smoothed() -> None:
    """Of the image as it is, not of its local contrast, which hides the light from networks."""
    network = Network(imsize=32, max_network_depth=2, width=2, local_contrast=10)
    scoring = Scoring(maps="combined", map_smoothing=5)
    mine = model_config("autoencoder", network=network, scoring=scoring)
    method, scorer = make_method(mine).eval(), Scorer(mine)
    assert scorer.patches is not None
    normal = smooth_images(20, 32, seed=1)
    scorer.patches.fit(scorer.patches.sums([scorer.patches.features(normal)]))
    x = normal[:2] + torch.tensor([0.0, 0.6])[:, None, None, None]
    with torch.no_grad():
        _, maps = scorer.smooth_maps(method, x)
        distances = scorer.patches(x)
    assert maps[PATCHES][1].mean() > 2 * maps[PATCHES][0].mean()
    large = torch.nn.functional.interpolate(distances[:, None], size=32, mode="bilinear")[:, 0]
    expected = gaussian_filter(large.numpy(), (0, 1.6, 1.6), mode="reflect")
    np.testing.assert_allclose(maps[PATCHES], expected, atol=1e-4)
    # Distances that are known already take their place.
    with torch.no_grad():
        _, given = scorer.smooth_maps(method, x, distances.flip(0))
    torch.testing.assert_close(given[PATCHES], maps[PATCHES].flip(0))
