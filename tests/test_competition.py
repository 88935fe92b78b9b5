"""The training step against the equations, written naively with eight forward passes."""

from collections import Counter
from itertools import permutations
from pathlib import Path

import pytest
import torch
from conftest import model_config
from torch.nn.functional import conv2d, conv_transpose2d, interpolate

from crn.config import Competition, Network
from crn.methods.competition import CompetitiveReconstructionNetworks
from crn.methods.convolution import (
    HalvingConv,
    NearestConv,
    fold_kernel,
    halve_by_product,
    upsample_by_product,
)
from crn.methods.encoder_decoder import EncoderDecoder
from crn.training.module import TrainingModule


def make_model(units: int = 2, **network) -> TrainingModule:
    torch.manual_seed(0)
    network = Network(**{"imsize": 16, **network})
    config = model_config(network=network, competition=Competition(units), seed=3)
    return TrainingModule(config).double()


def naive_gradients(model, x, i, j):
    """Every term with forward passes of its own, both directions, 8 for two units."""
    weights = model.config.competition
    units = model.method.units
    model.zero_grad()
    for generator, discriminator in {(i, j), (j, i)}:
        u, v = units[generator], units[discriminator]
        r = u(x)
        feedback = (r - v(r.detach()).detach()).abs().mean()
        reconstruction = (x - u(x)).abs().mean()
        l_gen = weights.reconstruction_weight * reconstruction + weights.feedback_weight * feedback
        l_disc = -weights.discrimination_weight * (u(x).detach() - v(r.detach())).abs().mean()
        l_gen.backward()
        l_disc.backward()
    return [p.grad.clone() for p in (*units[i].parameters(), *units[j].parameters())]


@pytest.mark.parametrize("norm", ["batch", "instance", "none"])
@pytest.mark.parametrize("improved", [True, False])
@pytest.mark.parametrize("units", [1, 2])
def test_four_forwards_have_the_gradients_of_eight(norm, improved, units):
    model = make_model(units, norm=norm, improved=improved)
    i, j = 0, units - 1
    trained, units = (0, 1)[:units], model.method.units
    x = torch.rand(4, 3, 16, 16, dtype=torch.double) * 2 - 1

    expected = naive_gradients(model, x, i, j)

    model.zero_grad()
    total, _ = model.method.training_losses(x, trained)
    total.backward()
    actual = [p.grad for p in (*units[i].parameters(), *units[j].parameters())]
    for mine, naive in zip(actual, expected, strict=True):
        torch.testing.assert_close(mine, naive, rtol=1e-9, atol=1e-12)
    assert any(gradient.abs().max() > 1e-6 for gradient in actual)


def test_a_step_is_four_forward_passes_of_two_units():
    model = make_model(3)
    calls = []
    for index, unit in enumerate(model.method.units):
        unit.register_forward_hook(lambda *_, index=index: calls.append(index))
    total, _ = model.method.training_losses(torch.rand(2, 3, 16, 16, dtype=torch.double), (0, 2))
    assert sorted(calls) == [0, 0, 2, 2]
    total.backward()
    assert all(p.grad is None for p in model.method.units[1].parameters())


def test_pairs_are_uniform_and_depend_on_seed_and_step_alone():
    model = make_model(3)
    counts = Counter(model.method.trained_in(3, step) for step in range(3000))
    assert set(counts) == set(permutations(range(3), 2))
    assert min(counts.values()) > 420  # 500 expected, deviation 20
    pair = model.method.trained_in(3, 77)
    torch.rand(5)
    assert model.method.trained_in(3, 77) == pair


@pytest.mark.parametrize(("units", "pairs"), [(2, {(0, 1), (1, 0)}), (1, {(0,)})])
def test_two_units_play_each_other_and_a_single_one_plays_itself(units, pairs):
    assert {make_model(units).method.trained_in(3, step) for step in range(20)} == pairs


def assert_same_function(layer, x, mine, plain):
    """Values, and gradients of input and parameters, in float64."""
    out = torch.randn_like(plain)

    def gradients(y):
        return torch.autograd.grad((y * out).sum(), [x, *layer.parameters()])

    torch.testing.assert_close(mine, plain, rtol=1e-10, atol=1e-12)
    for actual, expected in zip(gradients(mine), gradients(plain), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("form", ["layer", "product", "folded"])
@pytest.mark.parametrize("shape", [(1, 6, 1, 1), (16, 6, 2, 2), (3, 6, 5, 4), (1, 6, 16, 16)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_every_form_of_upsampling_is_the_plain_one(form, shape, bias, layout):
    torch.manual_seed(0)
    layer = NearestConv(6, 5, bias).double()
    x = torch.randn(shape, dtype=torch.double).to(memory_format=layout).requires_grad_()
    if form == "folded":
        mine = conv_transpose2d(x, fold_kernel(layer.weight), layer.bias, stride=2, padding=1)
    else:
        mine = layer(x) if form == "layer" else upsample_by_product(x, layer.weight, layer.bias)
    enlarged = interpolate(x, scale_factor=2.0)
    assert_same_function(layer, x, mine, conv2d(enlarged, layer.weight, layer.bias, padding=1))


@pytest.mark.parametrize("form", ["layer", "product"])
@pytest.mark.parametrize("shape", [(1, 4, 2, 2), (3, 4, 6, 8), (40, 4, 8, 8)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_every_form_of_halving_is_conv2d(form, shape, layout):
    torch.manual_seed(0)
    layer = HalvingConv(4, 7, bias=True).double()
    x = torch.randn(shape, dtype=torch.double).to(memory_format=layout).requires_grad_()
    mine = layer(x) if form == "layer" else halve_by_product(x, layer.weight, layer.bias)
    assert_same_function(layer, x, mine, conv2d(x, layer.weight, layer.bias, stride=2, padding=1))


def test_kernels_are_stored_as_a_matrix_product_reads_them():
    # An optimizer that is fused into one kernel works on memory, and wants it contiguous.
    for parameter in EncoderDecoder(Network(imsize=32)).parameters():
        assert parameter.is_contiguous()


def test_convolutions_start_with_kaiming_normal_weights_of_fan_out():
    torch.manual_seed(0)
    transposed = EncoderDecoder(Network(imsize=8, width=32, improved=False)).up[1].convolution
    for layer, fan_out in (
        (HalvingConv(128, 64, bias=False), 64 * 16),
        (NearestConv(64, 128, bias=False), 128 * 9),
        (transposed, 128 * 16),
    ):
        deviation = (2 / fan_out) ** 0.5
        assert layer.weight.std().item() == pytest.approx(deviation, rel=0.02)
        assert layer.weight.mean().abs() < 0.001
        # Of a normal distribution 4.6 % are beyond two deviations.
        beyond = (layer.weight.abs() > 2 * deviation).float().mean().item()
        assert beyond == pytest.approx(0.0455, abs=0.005)


@pytest.mark.parametrize(
    ("imsize", "depth", "millions"), [(32, 5, 12.4), (64, 6, 21.3), (128, 7, 30.2), (128, 8, 30.2)]
)
def test_parameters_of_a_unit(imsize, depth, millions):
    with torch.device("meta"):
        unit = EncoderDecoder(Network(imsize=imsize, max_network_depth=depth))
    assert sum(p.numel() for p in unit.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)


def test_a_unit_without_memory_is_built_without_the_compiler(run_python, tmp_path: Path):
    """Importing it takes two seconds of the start of inference."""
    code = (
        "import sys, torch; from crn.methods.encoder_decoder import EncoderDecoder, Network\n"
        "with torch.device('meta'): EncoderDecoder(Network())\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert run_python("-c", code, cwd=tmp_path).returncode == 0


@pytest.mark.parametrize("imsize", [8, 32, 64])
@pytest.mark.parametrize("depth", [1, 2, 3, 8])
@pytest.mark.parametrize("norm", ["batch", "instance", "none"])
def test_units_of_every_shape_reconstruct_into_range(imsize, depth, norm):
    unit = EncoderDecoder(Network(imsize=imsize, max_network_depth=depth, norm=norm))
    y = unit(torch.rand(1, 3, imsize, imsize) * 2 - 1)
    assert y.shape == (1, 3, imsize, imsize)
    assert y.abs().max() <= 1


def test_bias_only_where_no_norm_with_a_shift_follows():
    def biases(norm):
        unit = EncoderDecoder(Network(imsize=16, norm=norm))
        layers = (m for m in unit.modules() if isinstance(m, HalvingConv | NearestConv))
        return [layer.bias is not None for layer in layers]

    # down: outermost and innermost have no norm; up: the outermost ends in tanh
    assert biases("batch") == [True, False, False, True, True, False, False, False]
    assert all(biases("instance"))
    assert all(biases("none"))


def test_dropout_leaves_out_a_half_on_wide_inner_levels_only():
    unit = EncoderDecoder(Network(imsize=128, width=1, use_dropout=True))
    has = [any(isinstance(m, torch.nn.Dropout) for m in up.modules()) for up in unit.up]
    assert has == [False, False, False, False, True, True, False]
    dropped = unit.up[4].dropout(torch.ones(10_000))
    # What stays is doubled, so that the mean stays.
    assert dropped.unique().tolist() == [0, 2]
    assert dropped.mean().item() == pytest.approx(1, abs=0.06)
    assert (unit.eval().up[4].dropout(torch.ones(9)) == 1).all()


def method_that_remembers(units: int, *steps: tuple) -> CompetitiveReconstructionNetworks:
    """A method after steps of (trained, |x - r| of each, |r - f| of each)."""
    method = make_model(units, imsize=8).method
    for trained, reconstruction, feedback in steps:
        losses = {"reconstruction": reconstruction, "feedback": feedback}
        method.remember(trained, {name: torch.tensor(values) for name, values in losses.items()})
    return method


def test_a_discriminator_is_credited_with_what_it_made_of_the_other_unit():
    method = method_that_remembers(3, ((2, 0), (0.5, 0.3), (1.2, 0.4)))
    # A step counts for a tenth. Unit 0 has distorted the reconstruction of unit 2 by 1.2, unit 2
    # that of unit 0 by 0.4.
    assert method.reconstruction_loss.tolist() == pytest.approx([0.03, 0, 0.05])
    assert method.discrimination_margin.tolist() == pytest.approx([0.09, 0, -0.01])


def test_averages_are_corrected_for_their_start():
    # Unit 0 reconstructs by 0.5 and then 0.3: (0.5 * 0.9 + 0.3) / 1.9 = 0.395; unit 1 once by 0.4.
    method = method_that_remembers(
        3, ((0, 2), (0.5, 0.9), (0.0, 0.0)), ((0, 1), (0.3, 0.4), (0.0, 0.0))
    )
    assert method.best_pair()[0] == 0


@pytest.mark.parametrize(
    ("units", "steps", "best"),
    [
        # Margins: unit 0 has 1.9 - 0.1, unit 2 has 0.7 - 0.6, unit 1 less than 0.
        (4, (((0, 1), (0.1, 0.5), (0.2, 1.9)), ((1, 2), (0.5, 0.6), (0.7, 0.3))), (0, 2)),
        # Units that were never trained do not score, and a single one plays itself.
        (3, (((1, 2), (0.5, 0.6), (1.0, 0.1)),), (1, 2)),
        (1, (((0,), (0.5,), (1.0,)),), (0, 0)),
    ],
)
def test_the_best_discriminator_is_another_unit_than_the_best_generator(units, steps, best):
    method = method_that_remembers(units, *steps)
    assert method.best_pair() == best
    assert method.state() == dict(
        zip(("units/best_generator", "units/best_discriminator"), best, strict=True)
    )
    assert method.pairs("best") == [best]
