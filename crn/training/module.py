"""The training of any method as a LightningModule."""

import time
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.optim import Optimizer

from crn.config import SCORES, ModelConfig
from crn.errors import Diverged
from crn.evaluation.metrics import auroc
from crn.methods import Method, Terms, make_method
from crn.methods.scores import Maps, image_scores
from crn.system.hardware import is_finite
from crn.training.distributed import StopRequest, average_, gather, is_several, seed_dropout
from crn.training.optimizers import learning_rate, make_optimizer, set_learning_rate

# Training steps between two rows of losses in the logs; reading a loss makes a GPU wait.
LOG_INTERVAL = 10


class TrainingModule(pl.LightningModule):
    """The training of a method's networks, validation and all that a checkpoint carries.

    Training batches are images (B, 3, S, S) in [-1, 1]; validation batches are (images, labels).

    Attributes:
        method: what is trained.
        step: training steps done; a step is one batch.
        max_roc_auc: the best validation AUROC so far, of the score that was asked for; -1 before
            the first.
        is_best: whether the latest validation was that one.
        stop: the signal to stop, if any process has received one.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.config = config
        self.save_hyperparameters(config.as_plain_values(), logger=False)
        self.method: Method = make_method(config)
        self.step = 0
        self.max_roc_auc = -1.0
        self.is_best = False
        self.stop = StopRequest()
        self._networks = list(self.method.networks.values())
        self._seconds_before = 0.0
        self._fit_start = time.monotonic()
        # The sum of all losses since they were last looked at: what is not finite stays in it.
        self._unseen: Tensor | float = 0.0
        self._scored: list[tuple[Maps, Tensor]] = []

    @property
    def optimizer_steps_per_batch(self) -> int:
        """Lightning counts these; everything that a user sees counts batches."""
        return len(self.players)

    @property
    def players(self) -> tuple[int, ...]:
        """The networks that play in the next training step."""
        return self.method.draw(self.config.seed, self.step)

    def configure_optimizers(self) -> list[Optimizer]:
        """One optimizer for every network."""
        config = self.config.optimization
        return [make_optimizer(config, network.parameters()) for network in self._networks]

    def training_step(self, batch: Tensor, batch_idx: int) -> None:  # noqa: ARG002
        """Update the networks that play with one batch."""
        players = self.players
        statistics = self._running_statistics(players)
        seed_dropout(self.config.seed, self.step)
        total, terms = self.method.play(batch, players)
        self.manual_backward(total)
        total, terms = self._over_processes(total.detach(), terms, players)
        self._refuse_divergence(total, players, statistics)

        optimizers = self.optimizers() if len(self._networks) > 1 else [self.optimizers()]
        lr = learning_rate(self.config.optimization, self.step)
        for player in players:
            set_learning_rate(optimizers[player], lr)
            optimizers[player].step()
            optimizers[player].zero_grad()
        self.method.record(players, terms)
        self.step += 1
        if self.step % LOG_INTERVAL == 0:
            self._report(self.method.losses(terms), lr=lr)

    def _over_processes(
        self, total: Tensor, terms: Terms, players: Sequence[int]
    ) -> tuple[Tensor, Terms]:
        """Gradients and losses of the whole batch, of which every process has seen a share.

        The running statistics of the networks' norms are averaged with them.
        """
        if not is_several():
            return total, terms
        networks = [self._networks[player] for player in players]
        gradients = [p.grad for network in networks for p in network.parameters()]
        statistics = [b for network in networks for b in network.buffers() if b.is_floating_point()]
        figures = [value.float() for value in (total, *terms.values())]
        average_([*gradients, *statistics, *figures, self.stop.flags(total.device)])
        total, *values = figures
        return total, dict(zip(terms, values, strict=True))

    def _running_statistics(self, players: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """What a forward pass changes in the networks, by their norms, and a copy of it.

        Empty on a GPU, where `_refuse_divergence` comes too late to undo a step.
        """
        if self.device.type != "cpu":
            return []
        buffers = (value for player in players for value in self._networks[player].buffers())
        return [(value, value.clone()) for value in buffers]

    def _refuse_divergence(
        self, total: Tensor, players: Sequence[int], statistics: list[tuple[Tensor, Tensor]]
    ) -> None:
        """Stop before a step that would spoil the weights, in the state before it.

        Looking at a number makes a GPU wait, so there the losses are looked at when they are
        logged.

        Args:
            total: the sum of all losses.
            players: the networks that play.
            statistics: what they were before, see `_running_statistics`.

        Raises:
            Diverged: a loss is not finite.
        """
        self._unseen = self._unseen + total
        if total.device.type != "cpu" and (self.step + 1) % LOG_INTERVAL:
            return
        if not self._unseen.isfinite():
            for value, before in statistics:
                value.copy_(before)
            raise self.diverged(self.step + 1, f"the losses of {self.method.suspects(players)}")
        self._unseen = 0.0

    def diverged(self, step: int, what: str) -> Diverged:
        """The error that says since when something is not finite, and what to do."""
        return Diverged(
            f"step {step}: {what} are not finite: the training has diverged; train with a smaller "
            f"--lr than {self.config.optimization.lr:g}"
        )

    def is_finite(self) -> bool:
        """Whether the training can go on from here: weights, figures and optimizers are finite."""
        moments = (
            value
            for optimizer in self.trainer.optimizers
            for state in optimizer.state.values()
            for value in state.values()
            if isinstance(value, Tensor)
        )
        return all(map(is_finite, (*self.state_dict().values(), *moments)))

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:  # noqa: ARG002
        """Score a batch with the best networks, in float32 as inference does."""
        images, labels = batch
        with torch.autocast(images.device.type, enabled=False):
            _, maps = self.method.scorer("best").score(images)
        self._scored.append((image_scores(maps), labels))

    def on_validation_epoch_end(self) -> None:
        """Log the AUROC of all three scores.

        Raises:
            Diverged: a score is not finite.
        """
        # Every process has scored a part of the images, and their order is that of the processes.
        parts = gather([({k: v.cpu() for k, v in s.items()}, y.cpu()) for s, y in self._scored])
        self._scored.clear()
        batches = [batch for part in parts for batch in part]
        labels = torch.cat([labels for _, labels in batches])
        scores = {name: torch.cat([each[name] for each, _ in batches]) for name in SCORES}
        if not all(values.isfinite().all() for values in scores.values()):
            raise self.diverged(self.step, "the anomaly scores")
        aurocs = {name: auroc(values, labels) for name, values in scores.items()}
        current = aurocs[self.config.anomaly_score]
        self.is_best = current > self.max_roc_auc
        self.max_roc_auc = max(self.max_roc_auc, current)
        self._report(
            {
                "metrics/roc_auc": current,
                "metrics/max_roc_auc": self.max_roc_auc,
                **{f"metrics/roc_auc_{name}": value for name, value in aurocs.items()},
                "metrics/training_time": self.training_seconds,
                **self.method.figures(),
            }
        )

    @property
    def training_seconds(self) -> float:
        """Wall time of the training so far, in seconds, before and after every resumption."""
        return self._seconds_before + time.monotonic() - self._fit_start

    def on_fit_start(self) -> None:
        """Start the clock."""
        self._fit_start = time.monotonic()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what Lightning does not save, as plain values and tensors."""
        checkpoint["progress"] = {
            "step": self.step,
            "max_roc_auc": self.max_roc_auc,
            "training_seconds": self.training_seconds,
        }
        checkpoint["random_state"] = {
            "cpu": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the training where the checkpoint left it."""
        progress = checkpoint["progress"]
        self.step = progress["step"]
        self.max_roc_auc = progress["max_roc_auc"]
        self._seconds_before = progress["training_seconds"]
        state = checkpoint["random_state"]
        torch.set_rng_state(state["cpu"])
        if len(state["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda"])

    def _report(self, values: dict[str, Any], **more: Any) -> None:
        """Give figures to the loggers, under the number of batches done, and to the callbacks."""
        figures = {name: float(value) for name, value in (values | more).items()}
        self.log_dict(figures, logger=False)
        for logger in self.loggers:
            logger.log_metrics(figures, step=self.step)
