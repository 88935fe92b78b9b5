"""``python -m benchmarks.step``: a training step of the program beside a plain one.

The program's is `TrainingModule.training_step`, run by Lightning. For every size the two are run in
turn; the table gives medians in seconds, their ratio, and the peak memory of a process of its own
for each. ``--sizes 64:16`` measures one size only.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from benchmarks.naive import NaiveStep
from crn.config import Adversarial, Competition, ModelConfig, Network, Optimization, Scoring
from crn.system.hardware import has_fast_bfloat16, pick_device, set_up_cpu
from crn.training.module import TrainingModule
from crn.training.trainer import quiet_lightning

CPU_SIZES = ("32:1", "64:16", "128:16")
GPU_SIZES = (*CPU_SIZES, "128:64")
UNITS = 2


def make_model(imsize: int, batch_size: int, units: int, width: int = 64) -> TrainingModule:
    """A model with otherwise the default options, and seed 0."""
    torch.manual_seed(0)
    config = ModelConfig(
        "crn",
        Network(imsize=imsize, width=width),
        Competition(num_competitive_units=units),
        Adversarial(),
        Optimization(batch_size=batch_size),
        scoring=Scoring(),
        seed=0,
    )
    return TrainingModule(config)


class _Recorder(pl.Callback):
    """The time of every training step, the work on a GPU included, and its losses."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.losses: list[dict[str, float]] = []

    def setup(self, trainer: pl.Trainer, pl_module: TrainingModule, stage: str) -> None:  # noqa: ARG002
        """Listen to what the method remembers of its steps."""
        remember = pl_module.method.remember

        def listen(trained: Sequence[int], losses: dict[str, Tensor]) -> None:
            remember(trained, losses)
            self._latest = losses

        pl_module.method.remember = listen

    def on_train_batch_start(self, *_: Any) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def on_train_batch_end(self, *_: Any) -> None:
        """Stop it."""
        wait_for_gpu()
        self.seconds.append(time.perf_counter() - self._start)
        self.losses.append({name: float(each.mean()) for name, each in self._latest.items()})


def _train(model: TrainingModule, batches: Iterable[Tensor], bf16: bool, cpu: bool) -> _Recorder:
    recorder = _Recorder()
    trainer = pl.Trainer(
        accelerator="cpu" if cpu else "auto",
        devices=1,
        precision="bf16-mixed" if bf16 else "32-true",
        max_epochs=1,
        limit_val_batches=0,
        callbacks=[recorder],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, batches)
    return recorder


def train_steps(
    model: TrainingModule, batches: Iterable[Tensor], bf16: bool = False
) -> list[dict[str, float]]:
    """Train on batches, on the CPU; returns the losses of every step."""
    return _train(model, batches, bf16, cpu=True).losses


def time_steps(
    model: TrainingModule,
    x: Tensor,
    repeats: int,
    cpu: bool,
    bf16: bool = False,
    meanwhile: Callable[[], object] = lambda: None,
) -> list[float]:
    """Seconds of training steps on one batch, after a first one.

    Args:
        meanwhile: done before each of them, the first included.
    """

    def batches() -> Iterator[Tensor]:
        for _ in range(repeats + 1):
            meanwhile()
            yield x

    return _train(model, batches(), bf16, cpu).seconds[1:]


def wait_for_gpu() -> None:
    """Wait until it has done what it was given, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(act: Callable[[], object]) -> float:
    """Time something, the work on a GPU included."""
    start = time.perf_counter()
    act()
    wait_for_gpu()
    return time.perf_counter() - start


def median_seconds(act: Callable[[], object], repeats: int) -> float:
    """The median time of something, after a first one."""
    act()
    return statistics.median(seconds(act) for _ in range(repeats))


def peak_memory(kind: str, size: str, cpu: bool) -> float:
    """Peak memory in GB of a process that takes three steps: of the GPU, or of the process."""
    words = ["--memory-of", kind, "--sizes", size, *(["--cpu"] if cpu else [])]
    command = [sys.executable, "-m", "benchmarks.step", *words]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", help="IMSIZE:BATCH ...")
    parser.add_argument("--repeats", type=int, default=5, help="steps of each (default: 5)")
    parser.add_argument("--bf16", action="store_true", help="also where the hardware is slow at it")
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    set_up_cpu()
    device = pick_device(arguments.cpu)
    sizes = arguments.sizes or (GPU_SIZES if device.type == "cuda" else CPU_SIZES)

    if arguments.memory_of:
        imsize, batch_size = map(int, sizes[0].split(":"))
        x = torch.rand(batch_size, 3, imsize, imsize) * 2 - 1
        model, bf16 = make_model(imsize, batch_size, UNITS), arguments.memory_of.endswith("-bf16")
        if arguments.memory_of.startswith("program"):
            time_steps(model, x, 2, arguments.cpu, bf16)
        else:
            naive = NaiveStep(model.config, model.to(device).method.units)
            del model
            for _ in range(3):
                naive(x.to(device), 0, 1, autocast=bf16)
        if device.type == "cuda":
            print(torch.cuda.max_memory_allocated() / 1e9)
        else:
            # Not getrusage, whose maximum a process takes over from its parent.
            status = Path("/proc/self/status").read_text()
            print(int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e9)
        return

    quiet_lightning()
    print(f"device {device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{'px:batch':<10}{'step':<14}{'median s':>10}{'naive / it':>12}{'peak GB':>9}")
    for size in sizes:
        for bf16 in (False, True) if arguments.bf16 or has_fast_bfloat16(device) else (False,):
            for kind, times, ratios in compare(size, arguments.repeats, device, bf16):
                memory = peak_memory(kind, size, arguments.cpu)
                print(
                    f"{size:<10}{kind:<14}{statistics.median(times):>10.3f}"
                    f"{statistics.median(ratios):>12.2f}{memory:>9.2f}",
                    flush=True,
                )


def compare(
    size: str, repeats: int, device: torch.device, bf16: bool
) -> Iterator[tuple[str, list[float], list[float]]]:
    """Times of the plain step and the program's, in turn, and what the plain float32 one takes."""
    imsize, batch_size = map(int, size.split(":"))
    model = make_model(imsize, batch_size, UNITS).to(device)
    x = torch.rand(batch_size, 3, imsize, imsize, device=device) * 2 - 1
    naive = NaiveStep(model.config, model.method.units)
    times: dict[str, list[float]] = {"naive": []} | ({"naive-bf16": []} if bf16 else {})

    def run_plain() -> None:
        for kind, taken in times.items():
            taken.append(seconds(lambda k=kind: naive(x, 0, 1, autocast=k != "naive")))

    mine = time_steps(model, x, repeats, device.type == "cpu", bf16, run_plain)
    plain = {kind: taken[1 : repeats + 1] for kind, taken in times.items()}
    base = plain["naive"]
    for kind, taken in {**plain, "program-bf16" if bf16 else "program": mine}.items():
        if not (bf16 and kind == "naive"):
            yield kind, taken, [a / b for a, b in zip(base, taken, strict=True)]


if __name__ == "__main__":
    main()
