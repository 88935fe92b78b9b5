"""Maps, scores and metrics against values worked out by hand."""

import numpy as np
import pytest
import torch

from crn.config import Optimization
from crn.methods.encoder_decoder import IMAGES, RECONSTRUCTIONS
from crn.methods.maps import combined, maps_of, maps_of_pairs, ordered_pairs, ring_of_pairs
from crn.report.pictures import heat_colours, heat_map
from crn.training.optimizers import learning_rate, make_optimizer


def test_maps_by_hand():
    x = torch.zeros(1, 3, 1, 2)
    r = torch.tensor([[[[0.3, 0.0]], [[0.0, 0.0]], [[0.0, 0.6]]]])
    f = torch.full((1, 3, 1, 2), -0.2)
    maps = maps_of(x, r, f)
    torch.testing.assert_close(maps["reconstruction"], torch.tensor([[[0.1, 0.2]]]))
    torch.testing.assert_close(maps["residual"], torch.tensor([[[0.2, 0.2]]]))
    torch.testing.assert_close(maps["discrimination"], torch.tensor([[[-0.3, -0.4]]]))


def test_pairs_combine_maps_and_reconstruct_once_per_generator():
    calls = []

    def unit(index, factor):
        def reconstruct(x, given=IMAGES):
            calls.append((index, given))
            return x * factor

        return reconstruct

    units = {0: unit(0, 0.5), 1: unit(1, 0.2), 2: unit(2, 0.0)}
    x = torch.full((2, 3, 4, 4), 0.8)
    reconstruction, maps = combined(maps_of_pairs(x, units, ordered_pairs(3)))
    # Every generator is given images, and every discriminator what a generator made of them.
    assert [given for _, given in calls] == [IMAGES, RECONSTRUCTIONS, RECONSTRUCTIONS] * 3
    torch.testing.assert_close(reconstruction, x * 0.7 / 3)
    # residual |x - f| = 0.8 * (1 - product of the factors): 1 - 0.1 twice, else 1
    torch.testing.assert_close(maps["residual"], torch.full((2, 4, 4), 0.8 * (0.9 * 2 + 4) / 6))


def test_the_lowest_of_the_pairs_maps_by_hand():
    x = torch.zeros(1, 3, 1, 2)
    units = [lambda x, given=IMAGES, at=at: x + torch.tensor(at) for at in ((0.2, 0.8), (0.6, 0.3))]
    reconstruction, maps = combined(maps_of_pairs(x, units, ordered_pairs(2)), lowest=True)
    torch.testing.assert_close(maps["reconstruction"], torch.tensor([[[0.2, 0.3]]]))
    torch.testing.assert_close(reconstruction[0, 0], torch.tensor([[0.4, 0.55]]))


def test_every_unit_has_both_roles_once_in_a_ring():
    assert ring_of_pairs(1) == [(0, 0)]
    assert ring_of_pairs(3) == [(0, 1), (1, 2), (2, 0)]


def test_ordered_pairs():
    assert ordered_pairs(1) == [(0, 0)]
    assert set(ordered_pairs(3)) == {(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)}


def test_heat_colours_get_lighter_evenly():
    colours = heat_colours().astype(float) / 255
    luminance = colours @ [0.2126, 0.7152, 0.0722]
    assert colours.shape == (256, 3)
    assert (np.diff(luminance) > -0.004).all()
    assert luminance[0] < 0.05
    assert luminance[-1] > 0.9


def test_heat_map_uses_the_given_scale():
    picture = np.asarray(heat_map(torch.tensor([[0.0, 1.0, 2.0, 9.0]]), low=0, high=2))
    colours = heat_colours()
    assert (picture[0] == colours[[0, 128, 255, 255]]).all()


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


@pytest.mark.parametrize("name", ["adam", "adamw", "radam", "nadam", "rmsprop", "sgd"])
def test_every_optimizer_descends(name):
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    optimizer = make_optimizer(Optimization(optimizer=name, lr=0.01), [weight])
    for _ in range(3):
        weight.square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert 0 < weight.item() < 1
    if name in ("sgd", "rmsprop"):
        assert optimizer.param_groups[0]["momentum"] == 0.9
