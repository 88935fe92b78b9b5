"""The methods of anomaly detection: their networks, what these minimise, and how they score."""

from crn.config import ModelConfig
from crn.methods.base import Losses, Method, Scorer
from crn.methods.competition import CompetitiveReconstructionNetworks
from crn.methods.dual_autoencoders import DualAutoEncoderGAN

_METHODS: dict[str, type[Method]] = {
    "crn": CompetitiveReconstructionNetworks,
    "dagan": DualAutoEncoderGAN,
}


def make_method(config: ModelConfig) -> Method:
    """The networks of ``config.model``, with new weights."""
    return _METHODS[config.model](config)


__all__ = ["Losses", "Method", "Scorer", "make_method"]
