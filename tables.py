"""Make the tables of the paper: CRN against DAGAN, over data sets, seeds and numbers of units.

``python tables.py --help`` lists the options.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

# Under `python -P` it is not there.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from crn.experiments.tables.command import run_tables
from crn.system.program import program
from crn.system.startup import leave


@program("tables.py")
def main(argv: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        argv: command line, without the program's name; that of the process by default.

    Returns:
        Exit status: 0, 1 where a run has failed, 2 for bad input, 128 + N where signal N ended it.
    """
    return run_tables(sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    leave(main())
