"""The job of a table: a training run and, if it succeeds, inference with its checkpoint."""

import os
from collections.abc import Sequence

from crn.system.program import split_words

# The word of tables.py before the flags of a job.
TRAIN_AND_SCORE = "train-and-score"


def train_and_score(argv: Sequence[str]) -> int:
    """Run train.py with the flags before ``--``, and then with those after it.

    Returns:
        The exit status of the first that fails, or 0.
    """
    # Imports the whole program, which the table itself need not wait for.
    from train import main

    training, inference = split_words(argv)
    status = main(training)
    # Other processes of the same training run execute this command, too, but only one scores.
    if status or os.environ.get("LOCAL_RANK", "0") != "0":
        return status
    return main(inference)
