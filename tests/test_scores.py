"""Maps, scores and metrics against values worked out by hand."""

import numpy as np
import pytest
import torch
from conftest import model_config

from crn.config import Competition, Network, Optimization
from crn.methods import make_method
from crn.methods.encoder_decoder import IMAGES, RECONSTRUCTIONS
from crn.methods.maps import maps_of, merged
from crn.report.pictures import heat_colours
from crn.training.optimizers import learning_rate


def test_maps_by_hand():
    x = torch.zeros(1, 3, 1, 2)
    r = torch.tensor([[[[0.3, 0.0]], [[0.0, 0.0]], [[0.0, 0.6]]]])
    f = torch.full((1, 3, 1, 2), -0.2)
    maps = maps_of(x, r, f)
    torch.testing.assert_close(maps["reconstruction"], torch.tensor([[[0.1, 0.2]]]))
    torch.testing.assert_close(maps["residual"], torch.tensor([[[0.2, 0.2]]]))
    torch.testing.assert_close(maps["discrimination"], torch.tensor([[[-0.3, -0.4]]]))


def crn_of(*units):
    """CRN with functions in the place of its units."""
    competition = Competition(len(units))
    method = make_method(model_config(network=Network(imsize=8), competition=competition))
    del method.units
    method.units = units
    return method


def test_pairs_combine_maps_and_reconstruct_once_per_generator():
    calls = []

    def unit(factor):
        def reconstruct(x, given=IMAGES):
            calls.append(given)
            return x * factor

        return reconstruct

    method = crn_of(unit(0.5), unit(0.2), unit(0.0))
    x = torch.full((2, 3, 4, 4), 0.8)
    r, maps = merged(method.anomaly_maps(x, method.pairs("all")), lowest=False)
    # Every generator is given images, and every discriminator what a generator made of them.
    assert calls == [IMAGES, RECONSTRUCTIONS, RECONSTRUCTIONS] * 3
    torch.testing.assert_close(r, x * 0.7 / 3)
    # residual |x - f| = 0.8 * (1 - product of the factors): 1 - 0.1 twice, else 1
    torch.testing.assert_close(maps["residual"], torch.full((2, 4, 4), 0.8 * (0.9 * 2 + 4) / 6))


def test_the_lowest_of_the_pairs_maps_by_hand():
    x = torch.zeros(1, 3, 1, 2)
    shifts = torch.tensor([[0.2, 0.8], [0.6, 0.3]])
    method = crn_of(*(lambda x, given=IMAGES, shift=shift: x + shift for shift in shifts))
    r, maps = merged(method.anomaly_maps(x, method.pairs("lowest")), lowest=True)
    torch.testing.assert_close(maps["reconstruction"], torch.tensor([[[0.2, 0.3]]]))
    torch.testing.assert_close(r[0, 0], torch.tensor([[0.4, 0.55]]))


@pytest.mark.parametrize(
    ("which", "pairs"),
    [
        ("all", [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]),
        ("lowest", [(0, 1), (1, 2), (2, 0)]),  # a ring: every unit has both roles once
    ],
)
def test_pairs_of_three_units_and_of_a_single_one(which, pairs):
    assert crn_of(*range(3)).pairs(which) == pairs
    assert crn_of(0).pairs(which) == [(0, 0)]


def test_heat_colours_get_lighter_evenly():
    colours = heat_colours().astype(float) / 255
    luminance = colours @ [0.2126, 0.7152, 0.0722]
    assert colours.shape == (256, 3)
    assert (np.diff(luminance) > -0.004).all()
    assert luminance[0] < 0.05
    assert luminance[-1] > 0.9


@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [
        ("", [1e-3, 1e-3, 1e-3, 1e-3]),
        ("step", [1e-3, 1e-4, 1e-5, 1e-6]),
        ("exponential", [1e-3, 1e-3 * 0.1**0.3, 1e-3 * 0.1**0.6, 1e-3 * 0.1**0.9]),
        ("cosine", [1e-3, 7.938926e-4, 3.454915e-4, 2.447174e-5]),
    ],
)
def test_learning_rates(scheduler, expected):
    config = Optimization(lr=1e-3, lr_scheduler=scheduler, training_steps=100)
    rates = [learning_rate(config, step) for step in (0, 30, 60, 90)]
    assert rates == pytest.approx(expected, rel=1e-5)
