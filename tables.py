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
    """Run the program: `run_tables` with these words, or those of the process."""
    return run_tables(sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    leave(main())
