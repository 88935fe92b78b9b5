"""Processes that train together give the results of one process, and end together."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY, data_of, inference, refuse
from outputs import read_table, states
from victims import Victim, run_program

from crn.config import Network, Run
from crn.errors import UserError
from crn.methods.encoder_decoder import EncoderDecoder
from crn.training.processes import Place, choose_seed, find_place

# Without batch norm, which sees the images of one process only on a CPU.
SMALL = (
    "--cpu", "--imsize", 8, "--max-network-depth", 2, "--num-competitive-units", 3,
    "--batch-size", 4, "--norm", "none", "--precision", 32, "--dataset", "Panorama",
    "--dataset-path",
)  # fmt: skip


# --- real processes, started by the program itself and by torchrun ---


def start(folder: Path, *words: str | Path | int) -> subprocess.Popen[str]:
    """Start the program as a user does, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, str(REPOSITORY / "train.py"), *map(str, words)],
        cwd=folder, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def read_until(process: subprocess.Popen[str], beginning: str) -> str:
    """The output of the process up to a line, which must appear."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith(beginning):
            return "".join(lines)
    pytest.fail("".join(lines))


def has_processes(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def child_of(parent: int) -> int:
    """The only process that ``parent`` has started."""
    table = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
    )
    rows = [map(int, row.split()) for row in table.stdout.splitlines()]
    (child,) = (pid for pid, ppid in rows if ppid == parent)
    return child


def logged_values(table: Path, kind: str) -> dict[str, float]:
    """The values of a kind that a training run has logged at two of its steps."""
    return {
        f"{row['step']} {name}": float(value)
        for row in read_table(table)
        for name, value in row.items()
        if name.startswith(kind) and value and row["step"] in ("10", "20")
    }


def scores(run_main, folder: Path, data: Path, checkpoint: Path) -> list[float]:
    """The anomaly scores that inference gives all samples."""
    table = folder / f"{checkpoint.parent.name}.csv"
    words = inference(checkpoint, "Panorama", data, "--anomaly-score-file", table)
    assert run_main(*words).status == 0
    columns = ("residual", "reconstruction", "discrimination")
    return [float(row[column]) for row in read_table(table) for column in columns]


def test_two_processes_train_as_one_and_stop_together(run_main, read_only_panorama, tmp_path):
    words = (*SMALL, read_only_panorama, "--seed", 8, "--validation-interval", 10)
    with start(
        tmp_path, *words, "--devices", 2, "--training-steps", 10_000, "--checkpoint-path", "two",
        "--log-dir", "two_logs", "--log-file", "two.log", "--image-output-path", "pictures",
        "--image-output-interval", 10,
    ) as process:  # fmt: skip
        said = read_until(process, "step 20/")
        process.send_signal(signal.SIGTERM)  # process 0 alone gets it
        said += process.stderr.read()
    assert process.returncode == 128 + signal.SIGTERM, said
    assert not has_processes(process.pid)

    # One process has written.
    logged = (tmp_path / "two.log").read_text()
    assert sorted(logged.splitlines()) == sorted(said.splitlines())
    assert said.count("step 10/10000: AUROC") == 1
    *_, step = map(int, re.findall(r"saved two/last.ckpt at step (\d+)", said))
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert {name for name in names if not name.startswith("pictures/training/step_")} == {
        "two/best.ckpt", "two/last.ckpt", "two.log",
        "two_logs/version_0/hparams.yaml", "two_logs/version_0/metrics.csv",
        "two_logs/version_0/report.html",
    }  # fmt: skip

    one = run_main(*words, "--training-steps", step, "--checkpoint-path", "one")
    assert one.status == 0
    for kind, count in (("losses/", 4), ("metrics/roc_auc", 4), ("units/best", 2)):
        mine, theirs = (
            logged_values(tmp_path / name / "version_0/metrics.csv", kind)
            for name in ("logged_metrics", "two_logs")
        )
        assert len(mine) == 2 * count
        assert theirs == pytest.approx(mine, rel=1e-3 if kind == "losses/" else 1e-9)
    alone, together = (
        scores(run_main, tmp_path, read_only_panorama, tmp_path / name / "last.ckpt")
        for name in ("one", "two")
    )
    assert together == pytest.approx(alone, rel=1e-3)

    resumed = run_main(
        *words, "--training-steps", step + 1, "--model-input", "two/last.ckpt",
        "--checkpoint-path", "resumed",
    )  # fmt: skip
    assert resumed.status == 0
    assert f"from step {step}" in resumed.err


def test_torchrun_resumes_what_one_process_began(
    run_main, run_python, read_only_panorama, tmp_path
):
    words = (*SMALL, read_only_panorama, "--optimizer", "sgd", "--lr", 0.01, "--maps", "combined")
    began = run_main(*words, "--training-steps", 4, "--seed", 3, "--checkpoint-path", "began")
    assert began.status == 0
    words = (*words, "--training-steps", 9, "--model-input", "began/last.ckpt")
    assert run_main(*words, "--checkpoint-path", "one").status == 0
    together = run_python(
        "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2,
        REPOSITORY / "train.py", *words, "--checkpoint-path", "two", "--devices", 2, cwd=tmp_path,
    )  # fmt: skip
    assert together.returncode == 0, together.stderr
    assert together.stderr.count("resuming began/last.ckpt from step 4") == 1
    one, two = (states(tmp_path / name / "last.ckpt") for name in ("one", "two"))
    assert one.keys() == two.keys()
    # Statistics of maps and of patches, which are of the normal images of both, among them.
    assert {f"model scorer.{n}" for n in ("deviation", "patches.mean")} <= one.keys()
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-6)


def test_a_crash_of_one_process_ends_the_others(read_only_panorama, tmp_path):
    # No seed is given: process 0 draws one, for both, or they would refuse each other's.
    words = (*SMALL, read_only_panorama, "--validation-interval", 1000, "--devices", 2)
    with start(tmp_path, *words) as process:
        read_until(process, "device:")
        while not (tmp_path / "logged_metrics/version_0/metrics.csv").exists():
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        os.kill(child_of(process.pid), signal.SIGKILL)
        process.stderr.read()
    assert process.returncode not in (0, 2)
    assert not has_processes(process.pid)


# --- processes as on several machines ---


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Machine(Victim):
    """The program on one of two machines, in a folder of its own."""

    def __init__(self, folder: Path, rank: int, port: int, words: Sequence[object]) -> None:
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": str(rank)}
        act = partial(run_program, environment=place)
        super().__init__(folder, act, (*words, "--num-nodes", 2))

    @property
    def written(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}


@pytest.fixture
def two_machines(tmp_path, read_only_panorama) -> Iterator[Callable[..., list[Machine]]]:
    """Train on two machines; a pair of words is for the first and for the second machine."""
    started: list[Machine] = []

    def run(*words: object) -> list[Machine]:
        port = free_port()
        for rank in range(2):
            mine = [word[rank] if isinstance(word, tuple) else word for word in words]
            mine = [*SMALL, read_only_panorama, *mine]
            started.append(Machine(tmp_path / f"machine_{rank}", rank, port, mine))
        return started

    yield run
    for machine in started:
        machine.send(signal.SIGKILL)


def ended(machines: Sequence[Victim]) -> list[int]:
    """The exit statuses."""
    return [machine.end().status for machine in machines]


def test_machines_stop_on_the_signal_of_one(two_machines):
    first, second = machines = two_machines(
        "--seed", 1, "--validation-interval", 1, "--checkpoint-path", "kept",
        "--log-file", "log.txt",
    )  # fmt: skip
    assert first.wait_for("\nstep 2/"), first.err
    second.send(signal.SIGINT)
    assert ended(machines) == [128 + signal.SIGINT, 0]
    assert "saved kept/last.ckpt" in first.err
    assert first.written == {"kept", "logged_metrics", "log.txt"}
    assert (second.err, second.written) == ("", set())


def test_machines_stop_together_when_the_training_diverges(two_machines):
    first, second = machines = two_machines("--seed", 1, "--optimizer", "sgd", "--lr", 1e30)
    assert ended(machines) == [2, 0]
    assert first.err.count("train.py: error:") == first.err.count("--lr") == 1
    assert (second.err, second.written) == ("", set())


def test_machines_refuse_to_train_different_things(two_machines):
    machines = two_machines("--seed", (1, 2))
    assert ended(machines)[1] == 2
    assert machines[1].err.startswith("train.py: error: the processes that train together")


def test_running_statistics_are_those_of_the_whole_batch(
    two_machines, run_main, read_only_panorama, tmp_path
):
    words = (
        "--norm", "batch", "--max-network-depth", 3, "--seed", 2, "--training-steps", 1,
        "--optimizer", "sgd", "--checkpoint-path", "kept", "--maps", "combined",
    )  # fmt: skip
    machines = two_machines(*words)
    assert run_main(*SMALL, read_only_panorama, *words).status == 0
    assert ended(machines) == [0, 0]
    one, two = (states(path / "kept/last.ckpt") for path in (tmp_path, machines[0].folder))
    # Of the first norm, before which each process has not yet normalised by its own images.
    names = [name for name in one if "down.1" in name and "images.running_mean" in name]
    assert names
    # The statistics of patches cover the normal images of both processes.
    names += [name for name in one if "patches." in name]
    assert any(name.endswith("patches.count") and one[name] > 1 for name in names)
    for name in names:
        torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-6)


def exchange(rank: int, port: int) -> int:
    """Be one of two processes, and print what `crn.training.distributed` gives it."""
    from torch import distributed

    from crn.training.distributed import StopRequest, average_, gather, seed_dropout

    address = f"tcp://127.0.0.1:{port}"
    distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    stop = StopRequest()
    before = stop.agreed
    stop.received = signal.SIGTERM if rank else None
    values = torch.tensor([[1.0, 2.0]]) + rank, torch.tensor(float(rank))
    average_([*values, stop.flags(torch.device("cpu"))])
    means = [value.tolist() for value in values]
    masks = []
    for step in (5, 5, 6):
        seed_dropout(1, step)
        masks.append(torch.rand(3).tolist())
    print("\n" + json.dumps((means, gather([rank] * rank), (before, stop.agreed), masks)))
    return 0


def test_what_processes_exchange(tmp_path):
    port = free_port()
    both = [Victim(tmp_path, exchange, rank, port) for rank in range(2)]
    masks = []
    for each in both:
        means, gathered, stop, (again, first, other) = json.loads(each.succeed().splitlines()[-1])
        assert means == [[[1.5, 2.5]], 0.5]
        assert gathered == [[], [1]]
        assert stop == [None, signal.SIGTERM]
        assert again == first != other
        masks.append(first)
    assert masks[0] != masks[1]


# --- the place of a process ---


def torchrun(rank: int, count: int) -> dict[str, object]:
    return {
        "TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": count,
        "RANK": rank, "LOCAL_RANK": rank % 2, "GROUP_RANK": rank // 2,
    }  # fmt: skip


def slurm(rank: int, count: int) -> dict[str, object]:
    return {
        "SLURM_NTASKS": count, "SLURM_NTASKS_PER_NODE": 2, "SLURM_PROCID": rank,
        "SLURM_LOCALID": rank % 2, "SLURM_NODEID": rank // 2, "SLURM_JOB_NAME": "train",
    }  # fmt: skip


def by_hand(rank: int, count: int) -> dict[str, object]:
    return {
        "MASTER_ADDR": "first", "MASTER_PORT": 29500, "NODE_RANK": rank // 2, "LOCAL_RANK": rank % 2
    }  # fmt: skip


@pytest.fixture
def environment(monkeypatch) -> Callable[..., None]:
    """Set variables as torchrun or a cluster does: ``environment(slurm(0, 2))``."""
    # Lightning asks for the rank when it is imported, and keeps the answer for later tests.
    import pytorch_lightning  # noqa: F401

    def put(variables: dict[str, object]) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))

    return put


@pytest.mark.parametrize("started", [torchrun, slurm, by_hand])
@pytest.mark.parametrize("rank", [0, 3])
def test_every_process_knows_its_place(environment, started, rank: int):
    environment(started(rank, 4))
    place = find_place(Run(devices=2, num_nodes=2))
    assert (place.rank, place.count) == (rank, 4)
    with pytest.raises(UserError, match="--seed"):
        choose_seed(Run(devices=2, num_nodes=2), place)


def test_one_process_is_alone_whatever_a_cluster_has_set(environment):
    environment(slurm(3, 4))
    assert find_place(Run()) == Place()


@pytest.mark.parametrize(
    ("variables", "asked", "mention"),
    [
        (torchrun(0, 2), Run(devices=1), "--devices 1"),
        (slurm(0, 2), Run(devices=3), "--devices 3"),
        ({}, Run(num_nodes=2), "--num-nodes 2 needs MASTER_ADDR and MASTER_PORT and NODE"),
        (by_hand(4, 4), Run(devices=2, num_nodes=2), "number 4"),
    ],
)
def test_other_processes_than_were_asked_for(environment, variables, asked: Run, mention: str):
    environment(variables)
    with pytest.raises(UserError, match=mention):
        find_place(asked)


@pytest.mark.parametrize("count", [1, 3])
def test_shares_make_up_the_whole(count: int):
    shares = [range(10)[Place(rank=rank, count=count).share(10)] for rank in range(count)]
    assert [item for share in shares for item in share] == list(range(10))
    lengths = {len(share) for share in shares}
    assert max(lengths) - min(lengths) == (10 % count > 0)


# --- what is refused ---


@pytest.mark.parametrize(
    ("words", "mentions"),
    [
        (("--cpu", "--devices", 2, "--batch-size", 3), ("--batch-size 3", "multiple of 2")),
        (("--cpu", "--devices", 3, "--batch-size", 6), ("--batch-size 6", "4 images", "give 3")),
        (("--cpu", "--devices", 5, "--batch-size", 5), ("--devices", "(4)", "(5)")),
        (("--devices", 99), ("--devices 99", "--cpu")),
        (("--mode", "inference", "--model-input", "x", "--num-nodes", 2), ("--num-nodes", "train")),
    ],
)
def test_devices_that_cannot_be_used(run_main, read_only_panorama, words, mentions):
    refuse(run_main(*data_of("Panorama", read_only_panorama), *words), *mentions)


@pytest.mark.parametrize(("local_rank", "lines"), [(0, 1), (1, 0)])
def test_torchrun_gets_bad_input_told_once(run_main, environment, local_rank: int, lines: int):
    environment({"TORCHELASTIC_RUN_ID": "none", "LOCAL_RANK": local_rank})
    finished = run_main("--devices", 2, "--imsize", 100)
    assert finished.status == 2
    assert len(finished.err.splitlines()) == lines


# --- batch norm on GPUs ---


def test_synchronised_batch_norm_has_the_same_checkpoints():
    unit = EncoderDecoder(Network(imsize=16, norm="batch"))
    names = list(unit.state_dict())
    synchronised = torch.nn.SyncBatchNorm.convert_sync_batchnorm(unit)
    assert any(isinstance(each, torch.nn.SyncBatchNorm) for each in synchronised.modules())
    assert list(synchronised.state_dict()) == names
