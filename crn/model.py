"""Competitive reconstruction networks as a LightningModule."""

import random
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from crn.config import SCORES, ModelConfig
from crn.errors import Diverged
from crn.lightning import pl
from crn.metrics import auroc
from crn.objective import GeneratorLosses, generator_losses
from crn.optimizers import learning_rate, make_optimizer, set_learning_rate
from crn.parallel import StopRequest, average_, gather, is_several, seed_dropout
from crn.scores import Maps, image_scores, score_pairs
from crn.standing import Standing
from crn.unit import CompetitiveUnit

# Training steps between two rows of losses in the logs; reading a loss makes a GPU wait.
LOG_INTERVAL = 10


class CompetitiveReconstructionNetwork(pl.LightningModule):
    """A pool of N units that train all against all (Mattes et al. 2023).

    Training batches are images (B, 3, S, S) in [-1, 1]; validation batches are (images, labels).

    Attributes:
        units: the networks.
        standing: their running figures, which choose the best generator and discriminator.
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
        count = config.competition.num_competitive_units
        self.units = nn.ModuleList(CompetitiveUnit(config.network) for _ in range(count))
        self.standing = Standing(count)
        self.step = 0
        self.max_roc_auc = -1.0
        self.is_best = False
        self.stop = StopRequest()
        self._seconds_before = 0.0
        self._fit_start = time.monotonic()
        self._scored: list[tuple[Maps, Tensor]] = []

    @property
    def optimizer_steps_per_batch(self) -> int:
        """Lightning counts these; everything that a user sees counts batches."""
        return min(2, len(self.units))

    def configure_optimizers(self) -> list[Optimizer]:
        """One optimizer for every unit."""
        return [make_optimizer(self.config.optimization, unit.parameters()) for unit in self.units]

    def draw_pair(self) -> tuple[int, int]:
        """Two different units, a function of seed and step; a lone unit plays itself."""
        if len(self.units) == 1:
            return 0, 0
        draw = random.Random(f"pair {self.config.seed} {self.step}")
        i, j = draw.sample(range(len(self.units)), 2)
        return i, j

    def compete(self, x: Tensor, i: int, j: int) -> tuple[Tensor, dict[int, GeneratorLosses]]:
        """Let two units play both roles against each other, with four forward passes.

        Args:
            x: images, (B, 3, S, S) in [-1, 1].
            i, j: the units.

        Returns:
            The sum of both units' losses in both roles, whose gradients are theirs alone, and the
            terms of each unit as generator.
        """
        weights = self.config.competition
        r = {unit: self.units[unit](x) for unit in {i, j}}
        total = x.new_zeros(())
        losses = {}
        for generator, discriminator in {(i, j), (j, i)}:
            f = self.units[discriminator](r[generator].detach())
            losses[generator] = generator_losses(x, r[generator], f)
            total = total + losses[generator].generator(weights)
            total = total + losses[generator].discriminator(weights)
        return total, losses

    def training_step(self, batch: Tensor, batch_idx: int) -> None:  # noqa: ARG002
        """Update two units with one batch."""
        i, j = self.draw_pair()
        statistics = self._running_statistics(i, j)
        seed_dropout(self.config.seed, self.step)
        total, losses = self.compete(batch, i, j)
        self.manual_backward(total)
        total, losses = self._over_processes(total, losses)
        self._refuse_divergence(total, i, j, statistics)

        optimizers = self.optimizers() if len(self.units) > 1 else [self.optimizers()]
        lr = learning_rate(self.config.optimization, self.step)
        for unit in losses:
            set_learning_rate(optimizers[unit], lr)
            optimizers[unit].step()
            optimizers[unit].zero_grad()
        for unit, partner in {(i, j), (j, i)}:
            self.standing.update(unit, losses[unit].reconstruction, losses[partner].discrimination)
        self.step += 1
        if self.step % LOG_INTERVAL == 0:
            self._report(self._mean_losses(losses), lr=lr)

    def _over_processes(
        self, total: Tensor, losses: dict[int, GeneratorLosses]
    ) -> tuple[Tensor, dict[int, GeneratorLosses]]:
        """Gradients and losses of the whole batch, of which every process has seen a share.

        The running statistics of the units' norms are averaged with them.
        """
        if not is_several():
            return total, losses
        units = [self.units[index] for index in losses]
        gradients = [p.grad for unit in units for p in unit.parameters()]
        statistics = [b for unit in units for b in unit.buffers() if b.is_floating_point()]
        figures = torch.stack([total, *(term for each in losses.values() for term in each.terms())])
        figures = figures.detach().float()
        average_([*gradients, *statistics, figures, self.stop.flags(figures.device)])
        total, *terms = figures.unbind()
        rows = zip(terms[::3], terms[1::3], terms[2::3], strict=True)
        return total, {i: GeneratorLosses(*row) for i, row in zip(losses, rows, strict=True)}

    def _running_statistics(self, i: int, j: int) -> list[tuple[Tensor, Tensor]]:
        """What a forward pass changes in two units, by their norms, and a copy of it.

        Empty on a GPU, where `_refuse_divergence` comes too late to undo a step.
        """
        if self.device.type != "cpu":
            return []
        return [(value, value.clone()) for k in {i, j} for value in self.units[k].buffers()]

    def _refuse_divergence(
        self, total: Tensor, i: int, j: int, statistics: list[tuple[Tensor, Tensor]]
    ) -> None:
        """Stop before a step that would spoil the weights, in the state before it.

        Looking at a number makes a GPU wait, so there the running figures, in which a loss that
        is not finite stays, are looked at when losses are logged.

        Args:
            total: the sum of all losses.
            i, j: the units that play.
            statistics: what they were before, see `_running_statistics`.

        Raises:
            Diverged: a loss is not finite.
        """
        if total.device.type != "cpu":
            if (self.step + 1) % LOG_INTERVAL:
                return
            total = total + self.standing.reconstruction_loss.sum()
        if not total.isfinite():
            spoilt = (~self.standing.reconstruction_loss.isfinite()).nonzero().flatten().tolist()
            units = " and ".join(map(str, spoilt or sorted({i, j})))
            for value, before in statistics:
                value.copy_(before)
            raise self.diverged(self.step + 1, f"the losses of units {units}")

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
        return all(bool(t.isfinite().all()) for t in (*self.state_dict().values(), *moments))

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:  # noqa: ARG002
        """Score a batch with the best pair, in float32 as inference does."""
        images, labels = batch
        with torch.autocast(images.device.type, enabled=False):
            _, maps = score_pairs(images, self.units, [self.best_pair()])
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
        generator, discriminator = self.best_pair()
        self._report(
            {
                "metrics/roc_auc": current,
                "metrics/max_roc_auc": self.max_roc_auc,
                **{f"metrics/roc_auc_{name}": value for name, value in aurocs.items()},
                "metrics/training_time": self.training_seconds,
                "units/best_generator": generator,
                "units/best_discriminator": discriminator,
            }
        )

    def best_pair(self) -> tuple[int, int]:
        """Indices of the best generator and the best discriminator."""
        return self.standing.best_generator(), self.standing.best_discriminator()

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

    def _mean_losses(self, losses: dict[int, GeneratorLosses]) -> dict[str, Tensor]:
        """The mean over the units that played of each term and of both roles' losses."""
        weights = self.config.competition
        rows = [
            {
                "losses/reconstruction": each.reconstruction,
                "losses/feedback": each.feedback,
                "losses/generator": each.generator(weights),
                "losses/discriminator": each.discriminator(weights),
            }
            for each in losses.values()
        ]
        return {name: torch.stack([row[name] for row in rows]).mean().detach() for name in rows[0]}

    def _report(self, values: dict[str, Any], **more: Any) -> None:
        """Give figures to the loggers, under the number of batches done, and to the callbacks."""
        figures = {name: float(value) for name, value in (values | more).items()}
        self.log_dict(figures, logger=False)
        for logger in self.loggers:
            logger.log_metrics(figures, step=self.step)
