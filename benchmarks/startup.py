"""``python -m benchmarks.startup``: what each trick of crn/system/startup.py gains.

Processes with and without it run in turn. Of starting and ending, the seconds of a core count; of
training, which a busy machine keeps waiting, the seconds that pass, also beside as many processes
that take a core each as there are cores. ``--spins`` compares other values of GOMP_SPINCOUNT.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from joblib import cpu_count

REPOSITORY = Path(__file__).resolve().parents[1]
IMPORTS = "import crn.train, sklearn.metrics"
AT_ONCE = "import os; os._exit(0)"
# What is compared, without the trick and with it.
TRICKS = {
    "no garbage collection while importing": (
        f"{IMPORTS}; {AT_ONCE}",
        f"import gc; gc.disable(); {IMPORTS}; {AT_ONCE}",
    ),
    "leaving at once": (
        f"import gc; gc.disable(); {IMPORTS}; gc.enable()",
        f"import gc; gc.disable(); {IMPORTS}; gc.enable(); {AT_ONCE}",
    ),
}
# GNU's own number where the environment has none.
GNU_SPINS = 300_000


def run(words: Sequence[str], environment: Mapping[str, str]) -> tuple[float, float]:
    """Run Python, and return the seconds of cores that it took and those that passed."""
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, *words],
        cwd=REPOSITORY,
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    taken = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return taken, time.monotonic() - start


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Keep cores busy meanwhile."""
    others = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)
    ]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def main() -> None:
    """Print a table of the tricks, and one of the demo's training."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="pairs of runs (default: 5)")
    parser.add_argument(
        "--spins", type=int, nargs="+", default=[GNU_SPINS, 2000], help="(default: 300000 2000)"
    )
    arguments = parser.parse_args()
    print(f"{'CPU seconds to start and end':<60}{'without':>9}{'with':>9}{'gain':>9}")
    for name, codes in TRICKS.items():
        pairs = [
            [run(("-c", code), {"OMP_NUM_THREADS": "1"})[0] for code in codes]
            for _ in range(arguments.repeats)
        ]
        without, having = map(statistics.median, zip(*pairs, strict=True))
        gain = statistics.median(first - second for first, second in pairs)
        print(f"{name:<60}{without:>9.2f}{having:>9.2f}{gain:>9.2f}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        _compare_spins(arguments.spins, arguments.repeats, Path(folder))


def _compare_spins(spins: Sequence[int], repeats: int, folder: Path) -> None:
    print(f"\n{'seconds of a demo':<24}" + "".join(f"{f'{count:,} spins':>16}" for count in spins))
    words = ["train.py", "--demo", "--cpu", "--seed", "1", "--log-dir", str(folder)]
    words += ["--dataset", "RoadImages", "--dataset-path", str(folder / "roads")]
    subprocess.run(
        [sys.executable, "-c", "from datasets.road_sample import write_road_sample; import sys, "
         "pathlib; write_road_sample(pathlib.Path(sys.argv[1]))", str(folder / "roads")],
        cwd=REPOSITORY, check=True,
    )  # fmt: skip
    for others in (0, cpu_count()):
        with busy(others):
            rounds = [
                [run(words, {"GOMP_SPINCOUNT": str(count)})[1] for count in spins]
                for _ in range(repeats)
            ]
        medians = map(statistics.median, zip(*rounds, strict=True))
        name = f"beside {others} others" if others else "alone"
        print(f"{name:<24}" + "".join(f"{median:>16.1f}" for median in medians), flush=True)


if __name__ == "__main__":
    main()
