"""Make the tables of the paper: CRN against DAGAN, over data sets, seeds and numbers of units.

``python tables.py --help`` lists the options.
"""

from crn.experiments.tables.command import run_tables
from crn.experiments.tables.train_and_score import TRAIN_AND_SCORE, train_and_score
from crn.system.program import program
from crn.system.startup import leave


@program("tables.py")
def main(argv: list[str]) -> int:
    """Run the program, or one of the jobs that it starts."""
    if argv[:1] == [TRAIN_AND_SCORE]:
        return train_and_score(argv[1:])
    return run_tables(argv)


if __name__ == "__main__":
    leave(main())
