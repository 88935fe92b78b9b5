"""``python -m benchmarks.step``: a training step of the program beside a plain one.

For every size the two are run in turn; the table gives medians in seconds, their ratio, and the
peak memory of a process of its own for each. ``--sizes 64:16`` measures one size only.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.naive import NaiveStep
from crn.config import Adversarial, Competition, ModelConfig, Network, Optimization
from crn.system.hardware import has_fast_bfloat16, pick_device, set_up_cpu
from crn.training.module import TrainingModule

CPU_SIZES = ("32:1", "64:16", "128:16")
GPU_SIZES = (*CPU_SIZES, "128:64")
UNITS = 2

Step = Callable[[Tensor], dict[str, float]]


def make_model(imsize: int, batch_size: int, units: int) -> TrainingModule:
    """A model with the default options and seed 0."""
    torch.manual_seed(0)
    config = ModelConfig(
        "crn",
        Network(imsize=imsize),
        Competition(num_competitive_units=units),
        Adversarial(),
        Optimization(batch_size=batch_size),
        seed=0,
        anomaly_score="residual",
    )
    return TrainingModule(config)


def program_step(model: TrainingModule, bf16: bool) -> Step:
    """What `TrainingModule.training_step` does, without a trainer around it."""
    optimizers = model.configure_optimizers()

    def step(x: Tensor) -> dict[str, Tensor]:
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=bf16):
            total, terms = model.method.play(x, (0, 1))
        total.backward()
        for optimizer in optimizers[:2]:
            optimizer.step()
            optimizer.zero_grad()
        model.method.record((0, 1), terms)
        return {name: values.mean() for name, values in terms.items()}

    return step


def make_step(kind: str, size: str, device: torch.device) -> tuple[Step, Tensor]:
    """A step and its batch; ``kind`` is "program" or "naive", with "-bf16" for autocast."""
    imsize, batch_size = map(int, size.split(":"))
    model = make_model(imsize, batch_size, UNITS).to(device)
    x = torch.rand(batch_size, 3, imsize, imsize, device=device) * 2 - 1
    bf16 = kind.endswith("-bf16")
    if kind.startswith("program"):
        return program_step(model, bf16), x
    naive = NaiveStep(model.config, model.method.units)
    return lambda batch: naive(batch, 0, 1, autocast=bf16), x


def seconds(step: Step, x: Tensor) -> float:
    """Time one step, the work on a GPU included."""
    start = time.perf_counter()
    step(x)
    if x.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


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
        step, x = make_step(arguments.memory_of, sizes[0], device)
        for _ in range(3):
            step(x)
        if device.type == "cuda":
            print(torch.cuda.max_memory_allocated() / 1e9)
        else:
            # Not getrusage, whose maximum a process takes over from its parent.
            status = Path("/proc/self/status").read_text()
            print(int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e9)
        return

    kinds = ["naive", "program"]
    if arguments.bf16 or has_fast_bfloat16(device):
        kinds += ["naive-bf16", "program-bf16"]
    print(f"device {device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{'px:batch':<10}{'step':<14}{'median s':>10}{'naive / it':>12}{'peak GB':>9}")
    for size in sizes:
        steps = {kind: make_step(kind, size, device) for kind in kinds}
        for step, x in steps.values():
            step(x)
        times: dict[str, list[float]] = {kind: [] for kind in kinds}
        for _ in range(arguments.repeats):
            for kind, (step, x) in steps.items():
                times[kind].append(seconds(step, x))
        steps.clear()
        for kind in kinds:
            ratios = [a / b for a, b in zip(times["naive"], times[kind], strict=True)]
            memory = peak_memory(kind, size, arguments.cpu)
            print(
                f"{size:<10}{kind:<14}{statistics.median(times[kind]):>10.3f}"
                f"{statistics.median(ratios):>12.2f}{memory:>9.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
