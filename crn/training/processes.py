"""The place of this process among those that train together, and how they were started.

Process 0 alone writes files. On one machine it also starts the others (Lightning runs the same
command again for each), unless torchrun or a cluster has started all of them.
"""

import os
import random
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crn.config import Run
from crn.errors import UserError
from crn.system.program import is_under_torchrun

if TYPE_CHECKING:
    from lightning_fabric.plugins import environments

# An environment variable of the processes that process 0 has started: its process number.
STARTED_BY = "CRN_STARTED_BY"
# Environment variables that Lightning takes for the rank of a process when it is imported.
_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")


@dataclass(frozen=True)
class Place:
    """The place of a process among those that train together; by default it is alone.

    Attributes:
        rank: its number, from 0.
        count: the number of processes on all machines.
        environment: what has started them, in Lightning's terms; None for a single process.
    """

    rank: int = 0
    count: int = 1
    environment: "environments.ClusterEnvironment | None" = None

    def share(self, items: int) -> slice:
        """Its part of a sequence; the parts differ in length by at most 1."""
        return slice(self.rank * items // self.count, (self.rank + 1) * items // self.count)


def find_place(run: Run) -> Place:
    """Find out which process this is, from the environment.

    Raises:
        UserError: the number of processes is not what the options ask for.
    """
    count = run.devices * run.num_nodes
    asked = f"--devices {run.devices} and --num-nodes {run.num_nodes} make {count} processes"
    if count == 1:
        others = os.environ.get("WORLD_SIZE", "1")
        if is_under_torchrun() and others != "1":
            raise UserError(f"torchrun has started {others} processes, but {asked}")
        return Place()
    try:
        environment = _environment(run)
        rank, local_rank = environment.global_rank(), environment.local_rank()
    except (KeyError, ValueError, RuntimeError) as error:
        raise UserError(f"cannot tell which of the processes this is: {error}") from None
    if (started := environment.world_size()) != count:
        raise UserError(f"{asked}, but {type(environment).__name__} knows of {started}")
    if rank >= count or local_rank >= run.devices:
        raise UserError(f"{asked}, of which this one cannot be number {rank}, from 0")
    return Place(rank, count, environment)


def forget_launcher() -> None:
    """Remove ranks from the environment of a single process, before Lightning is imported.

    They are about another program, and may not even be numbers.
    """
    for name in _RANKS:
        os.environ.pop(name, None)


def _environment(run: Run) -> "environments.ClusterEnvironment":
    """What has started the processes: torchrun, a cluster, or else this program.

    The order is Lightning's, since torchrun may itself run inside a cluster.
    """
    from lightning_fabric.plugins import environments

    if environments.TorchElasticEnvironment.detect():
        return environments.TorchElasticEnvironment()
    if environments.SLURMEnvironment.detect():
        # This program stops and resumes in its own way.
        return environments.SLURMEnvironment(auto_requeue=False)
    for kind in (environments.LSFEnvironment, environments.MPIEnvironment):
        if kind.detect():
            return kind()
    if run.num_nodes > 1:
        missing = {"MASTER_ADDR", "MASTER_PORT", "NODE_RANK"} - os.environ.keys()
        if missing:
            raise UserError(
                f"--num-nodes {run.num_nodes} needs {' and '.join(sorted(missing))} in the "
                "environment, or torchrun or a cluster that starts the processes"
            )
    mine = environments.LightningEnvironment()
    mine.set_world_size(run.devices * run.num_nodes)
    mine.set_global_rank(mine.node_rank() * run.devices + mine.local_rank())
    return mine


def choose_seed(run: Run, place: Place) -> int:
    """Draw a seed if none was given; process 0 passes it to the processes that it starts.

    Raises:
        UserError: process 0 did not start the others, so each would draw its own.
    """
    # A checkpoint has its own seed, which replaces any other.
    if place.count == 1 or run.model_input is not None:
        return random.SystemRandom().randrange(2**32)
    if STARTED_BY in os.environ:
        return int(os.environ["PL_GLOBAL_SEED"])
    assert place.environment is not None
    if run.num_nodes > 1 or place.environment.creates_processes_externally:
        raise UserError(
            "--seed is missing: processes on several machines, or started by torchrun or a "
            "cluster, need it to train alike"
        )
    return random.SystemRandom().randrange(2**32)


def end_with_parent() -> None:
    """Make this process end with process 0, if that has started it."""
    parent = os.environ.get(STARTED_BY)
    if parent is not None:
        threading.Thread(target=_watch, args=(int(parent),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    # The main thread may be waiting for the process that is gone.
    os._exit(1)
