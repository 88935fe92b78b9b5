"""The fast step computes what the plain one computes. (How fast it is, benchmarks/ measures.)"""

import os
import re
import subprocess
import sys

import pytest
import torch
from conftest import REPOSITORY

from benchmarks.naive import NaiveStep
from benchmarks.step import make_model, program_step
from crn.system.hardware import has_fast_bfloat16, lightning_precision, set_up_cpu

STEPS = 10
CPU = torch.device("cpu")


def losses_of_first_steps(
    imsize: int, batch_size: int, dtype: torch.dtype, bf16: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses of the program's and the plain step on the same batches, from the same weights."""
    model = make_model(imsize, batch_size, units=2).to(dtype)
    naive = NaiveStep(model.config, model.method.units)
    program = program_step(model, bf16)
    torch.manual_seed(1)
    mine, plain = [], []
    for _ in range(STEPS):
        x = torch.rand(batch_size, 3, imsize, imsize, dtype=dtype) * 2 - 1
        losses = program(x)
        expected = naive(x, 0, 1)
        mine.append([losses[name].item() for name in ("reconstruction", "feedback")])
        plain.append([expected[name] for name in ("reconstruction", "feedback")])
    return torch.tensor(mine), torch.tensor(plain)


@pytest.mark.parametrize(("imsize", "batch_size"), [(8, 4), (16, 1)])
def test_losses_of_the_first_steps_are_those_of_the_plain_step(imsize, batch_size):
    # In float64: Adam divides gradients by their size, and so makes rounding grow from step to
    # step; in float32 it reaches a few thousandths here, whatever computes the same function.
    mine, plain = losses_of_first_steps(imsize, batch_size, torch.float64)
    torch.testing.assert_close(mine, plain, rtol=1e-6, atol=0)


def test_bfloat16_reaches_the_same_losses():
    mine, plain = losses_of_first_steps(8, 4, torch.float32, bf16=True)
    torch.testing.assert_close(mine.mean(0), plain.mean(0), rtol=0.02, atol=0)


def test_precision_by_name():
    assert lightning_precision("32", CPU) == "32-true"
    assert lightning_precision("bf16", CPU) == "bf16-mixed"
    expected = "bf16-mixed" if has_fast_bfloat16(CPU) else "32-true"
    assert lightning_precision("auto", CPU) == expected


def test_bfloat16_training_keeps_float32_parameters(run_main, read_only_road_images, tmp_path):
    finished = run_main(
        "--demo", "--cpu", "--precision", "bf16", "--training-steps", 2, "--max-network-depth", 2,
        "--dataset", "RoadImages", "--dataset-path", read_only_road_images,
        "--checkpoint-path", "kept",
    )  # fmt: skip
    assert finished.status == 0
    assert "precision: bf16-mixed" in finished.err
    checkpoint = torch.load(tmp_path / "kept/last.ckpt", weights_only=True)
    floats = {t.dtype for t in checkpoint["state_dict"].values() if t.is_floating_point()}
    assert floats == {torch.float32}


def test_threads_are_those_of_the_affinity():
    first = min(os.sched_getaffinity(0))
    code = (
        f"import os; os.sched_setaffinity(0, {{{first}}}); os.environ.pop('OMP_NUM_THREADS', None);"
        "from crn.system.hardware import set_up_cpu; import torch; torch.set_num_threads(7);"
        "set_up_cpu(); print(torch.get_num_threads())"
    )
    pinned = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert pinned.stdout == "1\n"


def test_threads_that_the_user_chose_stay(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    set_up_cpu()
    assert torch.get_num_threads() == before


def test_the_program_never_imports_the_plain_step():
    for folder in ("crn", "datasets"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            assert not re.search(r"^\s*(from|import) benchmarks\b", path.read_text(), re.MULTILINE)
