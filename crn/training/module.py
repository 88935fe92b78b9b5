"""Training and validation of any method as a LightningModule."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.optim import Optimizer

from crn.checkpoints.model import HELD_OUT
from crn.checkpoints.reading import Checkpoint
from crn.config import SCORES, ModelConfig
from crn.errors import Diverged
from crn.evaluation.metrics import auroc
from crn.methods import Losses, Method, make_method
from crn.methods.maps import Maps
from crn.scoring.scorer import Scored, Scorer
from crn.system.hardware import is_finite
from crn.training.distributed import StopRequest, average_, gather, is_several, seed_dropout
from crn.training.optimizers import learning_rate, load_optimizer_state, make_optimizer
from crn.training.patches import FittedPatches, fit_patches
from crn.training.processes import Place
from datasets.reader import normalize
from datasets.samples import TRAIN

if TYPE_CHECKING:
    from crn.training.data import InMemoryData

# Training steps between two rows of losses in the logs, since reading a loss makes a GPU wait.
LOG_INTERVAL = 10


class TrainingModule(pl.LightningModule):
    """Trains and validates a method's networks, and holds all that a checkpoint stores.

    Training batches are images (B, 3, S, S) in [-1, 1]; validation batches are pixels (B, 3, S, S),
    0 to 255, and labels (B,).

    Attributes:
        method: what is trained.
        scorer: turns its maps into scores.
        fitted: distances of the images, once the scorer's patches are fitted to normal images.
        step: training steps done; a step is one batch.
        max_roc_auc: the best validation AUROC so far of ``--anomaly-score``; -1 before the first
            validation, or if all test images are normal.
        best_step: the step of that validation.
        stop: the signal to stop, if any process has received one.
    """

    def __init__(self, config: ModelConfig) -> None:
        """Make a model with new weights.

        Raises:
            UserError: the network of the pretrained features is not available.
        """
        super().__init__()
        self.automatic_optimization = False
        self.config = config
        self.method: Method = make_method(config)
        self.scorer = Scorer(config)
        self.fitted: FittedPatches | None = None
        self.step = 0
        self.max_roc_auc = -1.0
        self.best_step = 0
        self.stop = StopRequest()
        self._networks = list(self.method.networks.values())
        self._optimizer_states: list[dict[str, Any]] = []
        self._seconds_before = 0.0
        self._fit_start = time.monotonic()
        # The sum of all losses since the last check; it stays infinite or NaN once it is.
        self._unseen: Tensor | float = 0.0
        self._scored: list[tuple[Maps, Tensor]] = []

    @property
    def images(self) -> "InMemoryData":
        """The data of the trainer."""
        trainer: Any = self.trainer
        return trainer.datamodule

    @property
    def is_best(self) -> bool:
        """Whether the validation after the present step was the best so far."""
        return self.max_roc_auc >= 0 and self.step == self.best_step

    def configure_optimizers(self) -> list[Optimizer]:
        """One optimizer for every network."""
        config = self.config.optimization
        optimizers = [make_optimizer(config, network.parameters()) for network in self._networks]
        for optimizer, state in zip(optimizers, self._optimizer_states, strict=False):
            load_optimizer_state(optimizer, state)
        self._optimizer_states = []
        return optimizers

    def training_step(self, batch: Tensor, batch_idx: int) -> None:  # noqa: ARG002
        """Update the networks of this step with one batch."""
        trained = self.method.trained_in(self.config.seed, self.step)
        undo = self._snapshot(trained)
        seed_dropout(self.config.seed, self.step)
        total, losses = self.method.training_losses(self.method.contrast(batch), trained)
        self.manual_backward(total)
        total, losses = self._over_processes(total.detach(), losses, trained)
        self._refuse_divergence(total, trained, undo)

        known = self.optimizers()
        optimizers: list[Any] = known if isinstance(known, list) else [known]
        lr = learning_rate(self.config.optimization, self.step)
        for network in trained:
            for group in optimizers[network].param_groups:
                group["lr"] = lr
            optimizers[network].step()
            optimizers[network].zero_grad()
        self.method.remember(trained, losses)
        self.step += 1
        if self.step % LOG_INTERVAL == 0:
            self._report(self.method.logged(losses), lr=lr)

    def on_train_start(self) -> None:
        """Fit the patches."""
        self._fit_patches()

    def on_train_epoch_end(self) -> None:
        """End the training by its own count of steps; Lightning would count optimizer steps."""
        if self.step >= self.config.optimization.training_steps:
            self.trainer.should_stop = True

    def _over_processes(
        self, total: Tensor, losses: Losses, trained: Sequence[int]
    ) -> tuple[Tensor, Losses]:
        """Average gradients and losses over all processes, each of which has seen a share.

        The running statistics of the networks' norms are averaged, too.
        """
        if not is_several():
            return total, losses
        networks = [self._networks[index] for index in trained]
        parameters = (p for network in networks for p in network.parameters())
        gradients = [p.grad for p in parameters if p.grad is not None]
        statistics = [b for network in networks for b in network.buffers() if b.is_floating_point()]
        means = [value.float() for value in (total, *losses.values())]
        average_([*gradients, *statistics, *means, self.stop.flags(total.device)])
        total, *values = means
        return total, dict(zip(losses, values, strict=True))

    def _snapshot(self, trained: Sequence[int]) -> Callable[[], None] | None:
        """A function that restores what a step's passes change: statistics and the random state.

        None on a GPU, where `_refuse_divergence` comes too late to undo a step.
        """
        if self.device.type != "cpu":
            return None
        buffers = [value for index in trained for value in self._networks[index].buffers()]
        copies, random_state = [value.clone() for value in buffers], torch.get_rng_state()

        def put_back() -> None:
            for value, before in zip(buffers, copies, strict=True):
                value.copy_(before)
            torch.set_rng_state(random_state)

        return put_back

    def _refuse_divergence(
        self, total: Tensor, trained: Sequence[int], undo: Callable[[], None] | None
    ) -> None:
        """Stop before an update with losses that are not finite, in the state before the step.

        Reading a number makes a GPU wait, so there losses are checked only when they are logged. By
        then the weights may have diverged, and the last good state is last.ckpt.
        """
        self._unseen = self._unseen + total
        if undo is None and (self.step + 1) % LOG_INTERVAL:
            return
        if not self._unseen.isfinite():
            if undo is not None:
                undo()
            raise self.diverged(self.step + 1, f"the losses of {self.method.not_finite(trained)}")
        self._unseen = 0.0

    def diverged(self, step: int, what: str) -> Diverged:
        """The error for something that is not finite, with the step and advice."""
        return Diverged(
            f"step {step}: {what} are not finite: the training has diverged; train with a smaller "
            f"--lr than {self.config.optimization.lr:g}"
        )

    def is_finite(self) -> bool:
        """Whether weights, averages and the states of optimizers are finite."""
        moments = (
            value
            for optimizer in self.trainer.optimizers
            for state in optimizer.state.values()
            for value in state.values()
            if isinstance(value, Tensor)
        )
        return all(map(is_finite, (*self.state_dict().values(), *moments)))

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:  # noqa: ARG002
        """Score a batch."""
        pixels, labels = batch
        images, distances = normalize(pixels), None
        if self.fitted is not None:
            start = sum(len(labels) for _, labels in self._scored)
            distances = self.fitted.test[start : start + len(labels)].to(images.device)
        self._scored.append((self.score(images, distances).scores, labels))

    def score(self, images: Tensor, distances: Tensor | None = None) -> Scored:
        """Score images as inference does, in float32.

        Args:
            images: (B, 3, S, S) in [-1, 1].
            distances: as in `Scorer.smooth_maps`.
        """
        with torch.autocast(images.device.type, enabled=False):
            return self.scorer(self.method, images, distances)

    def on_validation_start(self) -> None:
        """Measure the anomaly maps of normal images, if scores are relative to them."""
        self._fit_patches()
        if not self.scorer.kind.is_measured:
            return
        with torch.autocast(self.device.type, enabled=False):
            maps = (self.scorer.smooth_maps(self.method, x, d)[1] for x, d in self._normal_images())
            sums = self.scorer.sums(maps)
        self.scorer.measure(self._total(sums), self.step)

    def _normal_images(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield the training images of this process, with their distances if there are patches."""
        start = 0
        for x in self.images.images(TRAIN):
            some = slice(start, start + len(x))
            yield x, None if self.fitted is None else self.fitted.normal[some].to(x.device)
            start += len(x)

    def _fit_patches(self) -> None:
        """Fit the scorer's patches, once in a run, since images do not change."""
        if self.fitted is None and self.scorer.uses_patches:
            assert self.scorer.patches is not None
            with torch.autocast(self.device.type, enabled=False), self.stop.at_once():
                self.fitted = fit_patches(self.scorer.patches, self.images, self._total)

    def _total(self, sums: Tensor) -> Tensor:
        """The sum over all processes."""
        return self.trainer.strategy.reduce(sums, reduce_op="sum")

    def on_validation_epoch_end(self) -> None:
        """Log the AUROC of all three scores, which is undefined if all test images are normal.

        Raises:
            Diverged: a score is not finite.
        """
        # Every process has scored a part of the images, in the order of the processes.
        parts = gather([({k: v.cpu() for k, v in s.items()}, y.cpu()) for s, y in self._scored])
        self._scored.clear()
        batches = [batch for part in parts for batch in part]
        labels = torch.cat([labels for _, labels in batches])
        scores = {name: torch.cat([each[name] for each, _ in batches]) for name in SCORES}
        if not all(values.isfinite().all() for values in scores.values()):
            raise self.diverged(self.step, "the anomaly scores")
        metrics = {}
        if labels.any():
            aurocs = {name: auroc(values, labels) for name, values in scores.items()}
            current = aurocs[self.config.scoring.anomaly_score]
            if current > self.max_roc_auc:
                self.max_roc_auc, self.best_step = current, self.step
            metrics = {f"metrics/roc_auc_{name}": value for name, value in aurocs.items()}
            metrics |= {"metrics/roc_auc": current, "metrics/max_roc_auc": self.max_roc_auc}
        time_taken = {"metrics/training_time": self.training_seconds}
        self._report(metrics | time_taken | self.method.state())

    @property
    def training_seconds(self) -> float:
        """Wall time of the training so far in seconds, including the time before it was resumed."""
        return self._seconds_before + time.monotonic() - self._fit_start

    def on_fit_start(self) -> None:
        """Start the clock."""
        self._fit_start = time.monotonic()

    def checkpoint(self) -> dict[str, Any]:
        """All that resuming needs, as plain values and tensors."""
        return {
            "hyper_parameters": dataclasses.asdict(self.config),
            "state_dict": self.state_dict(),
            "optimizer_states": [each.state_dict() for each in self.trainer.optimizers],
            "progress": {
                "step": self.step,
                "training_seconds": self.training_seconds,
                "max_roc_auc": self.max_roc_auc,
                "best_step": self.best_step,
                "data": self.images.fingerprint,
            },
            **({} if self.fitted is None else {HELD_OUT: vars(self.fitted.held_out)}),
            "random_state": {
                "cpu": torch.get_rng_state(),
                "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            },
        }

    def go_on_from(self, checkpoint: dict[str, Any]) -> None:
        """Go on from the state in a checkpoint; to be called before Lightning's setup."""
        state = checkpoint["state_dict"]
        # If the kind of maps has changed, the next validation measures their statistics.
        expected = {name: value.shape for name, value in self.state_dict().items()}
        fit = {name: value for name, value in state.items() if expected.get(name) == value.shape}
        self.load_state_dict(fit, strict=fit.keys() == expected.keys())
        self._optimizer_states = checkpoint["optimizer_states"]
        progress = checkpoint["progress"]
        self.step = progress["step"]
        self.max_roc_auc = progress["max_roc_auc"]
        self.best_step = progress["best_step"]
        self._seconds_before = progress["training_seconds"]
        state = checkpoint["random_state"]
        torch.set_rng_state(state["cpu"])
        if len(state["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda"])

    def _report(self, values: dict[str, Any], **more: Any) -> None:
        """Give metrics to the loggers, under the number of steps done, and to the callbacks."""
        metrics = {name: float(value) for name, value in (values | more).items()}
        self.log_dict(metrics, logger=False)
        for logger in self.loggers:
            logger.log_metrics(metrics, step=self.step)


def make_module(
    config: ModelConfig, resumed: Checkpoint | None, place: Place, device: torch.device
) -> TrainingModule:
    """The module of a run, with pretrained weights and the state of the resumed checkpoint, if any.

    Raises:
        UserError: the network of the pretrained features, or its weights, cannot be had.
    """
    model = TrainingModule(config)
    if resumed:
        model.go_on_from(resumed.content)
    patches = model.scorer.patches
    if patches is not None and not (resumed and resumed.has_pretrained_weights):
        patches.features.load_pretrained()
    if place.count > 1 and device.type == "cuda":
        # Lightning would also convert the frozen network of the features.
        torch.nn.SyncBatchNorm.convert_sync_batchnorm(model.method)
    return model


def module_of(trainer: pl.Trainer) -> TrainingModule:
    """The module of a trainer."""
    module = trainer.lightning_module
    assert isinstance(module, TrainingModule)
    return module
