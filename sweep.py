"""Run a sweep on this machine: the YAML files that W&B takes, without an account.

``python sweep.py --help`` lists the options.
"""

import sys
from collections.abc import Sequence

from crn.experiments.sweep.command import run_sweep
from crn.system.program import program
from crn.system.startup import leave


@program("sweep.py")
def main(argv: Sequence[str] | None = None) -> int:
    """Run the program: `run_sweep` with these words, or those of the process."""
    return run_sweep(sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    leave(main())
