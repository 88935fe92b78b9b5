"""Many scans: their files, an index from their headers, and a task for each, here or by dask."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import shapely
from tqdm import tqdm

from crn.errors import UserError
from crn.pointcloud.las import Scan, check_scans
from crn.pointcloud.partition import BLOCK
from crn.pointcloud.roadway import AROUND
from crn.system.program import print_result
from crn.system.text import counted, printable

if TYPE_CHECKING:
    from distributed import Client

log = logging.getLogger(__name__)
T = TypeVar("T")

SUFFIXES = (".las", ".laz")
_COPC = ".copc.laz"
_SHOWN = 20  # scans in an index that is not asked for
# One core of an AMD EPYC, without the network; see benchmarks/pointcloud.py.
_POINTS_PER_SECOND = {"tiles": 1.4e6, "score": 0.8e6, "read": 4e6}
_GIGABYTES = 1.4  # memory of a job, at most
_WORKER_ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 25),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TQDM_DISABLE": "1",
}
BYTES_PER_POINT = 32  # on disk while a scan is worked on: all its points, and those of the road


@dataclass(frozen=True)
class Workers:
    """Where tasks run.

    Attributes:
        jobs: number of processes on this machine.
        scheduler: address of a dask scheduler, whose workers run the tasks; None: this machine.
        strict: end at the first task that fails, instead of going on with the others.
    """

    jobs: int = 1
    scheduler: str | None = None
    strict: bool = False


_PATIENCE = 10  # seconds until a scheduler has to answer
HERE = Workers()  # one task after another in this process


@dataclass(frozen=True)
class Task:
    """A scan, and the scans around it, which are read but neither painted nor cut."""

    scan: Scan
    neighbours: tuple[Scan, ...] = ()


def read_campaign(
    inputs: Sequence[Path], out: Path, crs: str | None, workers: Workers
) -> tuple[list[Task], dict[str, UserError]]:
    """The tasks for all scans, and the errors of the files that cannot be used, by their names.

    Raises:
        UserError: no file can be used, or they do not go together.
    """
    if workers.scheduler is not None:
        inputs = [path.absolute() for path in inputs]
    names = find_files(inputs, out)
    refused: dict[Path, UserError] = {}
    scans = check_scans(names, crs, None if workers.strict or len(names) == 1 else refused)
    for error in refused.values():
        log.warning("%s", error)
    if not scans:
        raise next(iter(refused.values()))
    scans = [replace(scan, name=names[scan.path]) for scan in scans]
    return tasks_of(scans), {names[path]: error for path, error in refused.items()}


def find_files(inputs: Sequence[Path], out: Path | None = None) -> dict[Path, str]:
    """The given files and the LAS and LAZ files below the given folders, with their names.

    A name is the path below the given folder; if two were equal, below the folder of all inputs.

    Args:
        inputs: files and folders.
        out: a folder that is not searched.

    Raises:
        UserError: there are none, or one is given twice.
    """
    found: list[tuple[Path, str]] = []
    for path in inputs:
        if path.is_dir():
            below = [(each, str(each.relative_to(path))) for each in _below(path, out)]
            if not below:
                raise UserError(f"{path}: contains no .las or .laz file")
            found += below
        elif path.exists():
            found.append((path, path.name))
        else:
            raise UserError(f"{path}: no such file; give a LAS or LAZ file, or a folder of them")
    files: dict[tuple[int, int], Path] = {}
    for path, _ in found:
        status = path.stat()
        other = files.setdefault((status.st_dev, status.st_ino), path)
        if other is not path:
            raise UserError(f"{path}: is named twice, first as {other}; name it once")
    names = dict(found)
    if len(set(names.values())) < len(names):
        base = os.path.commonpath([path.absolute().parent for path in names])
        names = {path: os.path.relpath(path.absolute(), base) for path in names}
    return names


def _below(folder: Path, out: Path | None) -> Iterator[Path]:
    """The scans below a folder, without hidden files, ``out``, and second files of a scan."""
    left_out = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(
            name
            for name in folders
            if name[0] != "." and (out is None or Path(parent, name).resolve() != out.resolve())
        )
        scans = {name for name in files if name.lower().endswith(SUFFIXES) and name[0] != "."}
        # QGIS makes a .copc.laz beside every scan that it opens.
        for name in sorted(scans):
            stem, is_copc = name[:-4], name.lower().endswith(_COPC)
            firsts = {stem[:-5] + ".laz", stem[:-5] + ".las"} if is_copc else {stem + ".laz"}
            if (firsts - {name}) & scans:
                left_out.append(Path(parent, name))
            else:
                yield Path(parent, name)
    if left_out:
        log.info(
            "%s: %s left out, as another file of the same scan is beside each, such as %s",
            *(folder, counted(len(left_out), "file"), left_out[0].name),
        )


def tasks_of(scans: Sequence[Scan]) -> list[Task]:
    """A task for each scan, with the scans that may have points in the blocks around it."""
    west, south, east, north = np.array([scan.box for scan in scans]).T
    reach = (AROUND + 1) * BLOCK / 100
    tree = shapely.STRtree(shapely.box(west, south, east, north))
    near = shapely.box(west - reach, south - reach, east + reach, north + reach)
    return [
        Task(scan, tuple(scans[other] for other in sorted(tree.query(box)) if other != number))
        for number, (scan, box) in enumerate(zip(scans, near, strict=True))
    ]


def show_index(tasks: Sequence[Task], command: str, workers: Workers, dry: bool) -> None:
    """Print what the headers tell, and how much time, memory and disk the command may take.

    Args:
        tasks: the tasks.
        command: tiles or score.
        workers: where they run.
        dry: whether this is all that is asked for; otherwise only some scans are shown.
    """
    lines = []
    for task in tasks if dry else tasks[:_SHOWN]:
        scan = task.scan
        west, south, east, north = scan.box
        system = scan.crs.name if scan.crs else "no system"
        lines.append(
            f"{printable(scan.name)}: {counted(scan.points, 'point')}, {east - west:,.0f} x "
            f"{north - south:,.0f} m from {west:.0f} {south:.0f}, "
            f"{scan.points / max(1.0, (east - west) * (north - south)):,.0f} points/m2 of it, "
            f"{scan.header.creation_date or 'no date'}, {system}, "
            f"{counted(len(task.neighbours), 'neighbour')}"
        )
    if len(lines) < len(tasks):
        lines.append(f"... and {len(tasks) - len(lines):,} more")
    points = sum(task.scan.points for task in tasks)
    others = sum(other.points for task in tasks for other in task.neighbours)
    seconds = points / _POINTS_PER_SECOND[command] + others / _POINTS_PER_SECOND["read"]
    time = timedelta(seconds=round(seconds / workers.jobs))
    network = " without the network" if command == "score" else ""
    disk = disk_needed(tasks, command, workers) / 1e9
    lines.append(
        f"{counted(len(tasks), 'scan')}, {points:,} points: about {time} h{network}, up to "
        f"{_GIGABYTES * workers.jobs:.1f} GB of memory and {disk:.1f} GB of disk, with "
        f"{counted(workers.jobs, 'job')}"
    )
    for line in lines:
        print_result(line) if dry else log.info("%s", line)


def disk_needed(tasks: Sequence[Task], command: str, workers: Workers) -> int:
    """About the bytes that a command writes: what it keeps, and what its jobs need for a while."""
    scores = command == "score"
    sizes = sorted(
        BYTES_PER_POINT * sum(scan.points for scan in (task.scan, *task.neighbours))
        + scores * task.scan.points * task.scan.header.point_format.size  # uncompressed
        for task in tasks
    )
    at_once = workers.jobs if scores else len(sizes)
    kept = scores * sum(task.scan.path.stat().st_size for task in tasks)
    return sum(sizes[-at_once:]) + kept


def run_tasks(
    function: Callable[..., T], arguments: Mapping[str, tuple], workers: Workers
) -> Iterator[tuple[str, T | UserError]]:
    """Call a function for every task, and yield the name and the result, or the error, of each.

    Args:
        function: raises `UserError` if the task fails.
        arguments: its arguments for each task, by the name of the scan.
        workers: where they run.

    Raises:
        UserError: a task fails and the workers are strict, or no scheduler answers.
    """
    results, count = _results(function, arguments, workers), len(arguments)
    for name, result in tqdm(results, total=count, unit="scans", disable=count == 1 or None):
        if isinstance(result, UserError):
            if workers.strict:
                raise result
            log.warning("%s", result)
        yield name, result


def _results(
    function: Callable[..., T], arguments: Mapping[str, tuple], workers: Workers
) -> Iterator[tuple[str, T | UserError]]:
    if workers.scheduler is None and min(workers.jobs, len(arguments)) <= 1:
        for name, each in arguments.items():
            try:
                yield name, function(*each)
            except UserError as error:
                yield name, error
        return
    with _client(workers) as client:
        from distributed import as_completed
        from distributed.scheduler import KilledWorker

        names = {
            client.submit(function, *each, pure=False): name for name, each in arguments.items()
        }
        for future in as_completed(names):
            name = names.pop(future)
            try:
                yield name, future.result()
            except UserError as error:
                yield name, error
            except KilledWorker:
                died = "its process died, perhaps for lack of memory; give fewer --jobs"
                yield name, UserError(f"{name}: {died}")
            future.release()


@contextmanager
def _client(workers: Workers) -> Iterator["Client"]:
    """A connection to a scheduler, of this machine or another one.

    Raises:
        UserError: dask is not installed, or the scheduler does not answer.
    """
    try:
        import dask
        from distributed import Client, LocalCluster
    except ImportError:
        raise UserError(
            "--jobs and --scheduler need dask: pip install 'dask[distributed]'"
        ) from None
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    dask.config.set({"distributed.admin.log-length": 0})
    # By default, dask's workers spend a third of their time on giving memory back.
    # Jobs share the cores: with more threads for LAZ, they would get into each other's way.
    threads = {"RAYON_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // workers.jobs))}
    dask.config.set({"distributed.nanny.pre-spawn-environ": _WORKER_ENVIRONMENT | threads})
    with ExitStack() as stack:
        where = workers.scheduler
        if where is None:
            where = stack.enter_context(
                LocalCluster(
                    n_workers=workers.jobs,
                    threads_per_worker=1,
                    memory_limit=0,  # tasks know their bounds
                    dashboard_address=":0",
                    silence_logs=logging.CRITICAL,
                )
            )
            log.info("progress: %s", where.dashboard_link)
        try:
            client = stack.enter_context(Client(where, timeout=_PATIENCE))
        except (OSError, ValueError) as error:
            raise UserError(f"--scheduler {where}: does not answer ({error})") from None
        yield client


def report_failures(failed: Mapping[str, UserError], count: int, out: Path) -> None:
    """Refuse to call a campaign complete.

    Raises:
        UserError: some scans failed.
    """
    if failed:
        names = ", ".join(list(failed)[:5]) + (", ..." if len(failed) > 5 else "")
        raise UserError(
            f"{len(failed)} of {counted(count, 'scan')} failed, as said above: {names}; {out} has "
            "the results of the others"
        )
