"""The methods of the paper: networks, the losses that they minimise, and their anomaly maps."""

from crn.config import ModelConfig
from crn.methods.autoencoder import Autoencoder
from crn.methods.base import Losses, Method, Pair
from crn.methods.competition import CompetitiveReconstructionNetworks
from crn.methods.dual_autoencoders import DualAutoEncoderGAN
from crn.methods.features_alone import FeaturesAlone

_METHODS: dict[str, type[Method]] = {
    "crn": CompetitiveReconstructionNetworks,
    "dagan": DualAutoEncoderGAN,
    "autoencoder": Autoencoder,
    "features": FeaturesAlone,
}


def make_method(config: ModelConfig) -> Method:
    """The networks of ``config.model``, with new weights."""
    return _METHODS[config.model](config)


__all__ = ["Losses", "Method", "Pair", "make_method"]
