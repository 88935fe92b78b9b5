"""Run a sweep on this machine: the YAML files that W&B takes, without an account.

``python sweep.py --help`` lists the options. Optuna is imported after the sweep has been checked.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

# Under `python -P` it is not there.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from crn.experiments.sweep.command import run_sweep
from crn.system.program import program
from crn.system.startup import leave


@program("sweep.py")
def main(argv: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        argv: command line, without the program's name; that of the process by default.

    Returns:
        Exit status: 0, 1 where no run has completed, 2 for bad input, 128 + N where signal N ended
        it.
    """
    return run_sweep(sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    leave(main())
