"""Run a sweep on this machine: the YAML files that W&B takes, without an account.

``python sweep.py --help`` lists the options.
"""

from crn.experiments.sweep.command import run_sweep
from crn.system.program import program
from crn.system.startup import leave


@program("sweep.py")
def main(argv: list[str]) -> int:
    """Run the program."""
    return run_sweep(argv)


if __name__ == "__main__":
    leave(main())
