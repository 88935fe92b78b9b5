"""What makes the program fast, without a clock. (How fast it is, benchmarks/ measures.)"""

import os
import re

import torch
from conftest import REPOSITORY

from crn.system.hardware import (
    has_fast_bfloat16,
    lightning_precision,
    pick_device,
    set_up_cpu,
)

CPU = torch.device("cpu")


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


def test_a_gpu_computes_in_float32_without_tf32(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert pick_device(cpu=True) == CPU
    assert torch.backends.cudnn.allow_tf32
    assert pick_device(cpu=False) == torch.device("cuda")
    assert not torch.backends.cudnn.allow_tf32
    assert torch.get_float32_matmul_precision() == "highest"


def test_threads_are_those_of_the_affinity(run_python):
    first = min(os.sched_getaffinity(0))
    code = (
        f"import os; os.sched_setaffinity(0, {{{first}}}); os.environ.pop('OMP_NUM_THREADS', None);"
        "from crn.system.hardware import set_up_cpu; import torch; torch.set_num_threads(7);"
        "set_up_cpu(); print(torch.get_num_threads())"
    )
    assert run_python("-c", code, cwd=REPOSITORY).stdout == "1\n"


def test_threads_that_the_user_chose_stay(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    set_up_cpu()
    assert torch.get_num_threads() == before


def test_the_program_never_imports_the_plain_step():
    for folder in ("crn", "datasets"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            assert not re.search(r"^\s*(from|import) benchmarks\b", path.read_text(), re.MULTILINE)
