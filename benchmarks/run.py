"""``python -m benchmarks.run``: a whole training, and where its time goes.

It runs the training of train.py in this process, on the road sample that the program makes itself
or on ``--dataset`` and ``--dataset-path``, and prints the seconds of every part. Other options of
train.py may follow, as in
``python -m benchmarks.run --imsize 64 --batch-size 16 --training-steps 20``.
"""

import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

START = time.perf_counter()


class Clock:
    """Adds up the seconds spent in some functions."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def watch(self, owner: Any, name: str, part: str) -> None:
        """Count the time in ``owner.name`` as ``part``; waits for a GPU to finish."""
        import torch

        function: Callable = getattr(owner, name)

        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                self.seconds[part] += time.perf_counter() - start

        setattr(owner, name, timed)


def main() -> None:
    """Train and print the table."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["--checkpoint-path", f"{folder}/checkpoints", "--log-dir", f"{folder}/logs"]
        words += sys.argv[1:]
        clock = Clock()
        start = time.perf_counter()
        if "--dataset-path" not in words:
            from datasets.road_sample import write_road_sample

            roads = Path(folder) / "roads"
            write_road_sample(roads)
            words += ["--dataset", "RoadImages", "--dataset-path", str(roads)]
        sample = time.perf_counter() - start

        start = time.perf_counter()
        from crn import run
        from crn.command_line import parse_options

        with run.without_garbage_collection():
            import pytorch_lightning as pl

            import crn.train  # noqa: F401
            from crn.training import data
            from crn.training.callbacks import Checkpoints
            from crn.training.module import TrainingModule

        imports = time.perf_counter() - start

        clock.watch(data, "read_images", "decoding")
        clock.watch(TrainingModule, "training_step", "training steps")
        clock.watch(TrainingModule, "validation_step", "validation: scoring")
        clock.watch(TrainingModule, "on_validation_start", "validation: normal images")
        clock.watch(TrainingModule, "on_validation_epoch_end", "validation: metrics")
        clock.watch(Checkpoints, "_save", "checkpoints")
        clock.watch(pl.Trainer, "fit", "fit")
        options = parse_options(words)
        run.run(options)
        whole = time.perf_counter() - START

    parts = dict(clock.seconds)
    fit = parts.pop("fit")
    decoding = parts.pop("decoding")
    loop = fit - sum(parts.values())
    rows = {
        "sample": sample,
        "imports": imports,
        "decoding": decoding,
        **parts,
        "loop, logging, data": loop,
        "rest (set-up)": whole - sample - imports - decoding - fit,
        "whole": whole,
    }
    print(f"\n{'part':<26}{'seconds':>9}{'share':>8}")
    for part, spent in rows.items():
        print(f"{part:<26}{spent:>9.2f}{spent / whole:>8.1%}")
    print(f"loop, logging, data: {loop / parts['training steps']:.1%} of the training steps")


if __name__ == "__main__":
    main()
