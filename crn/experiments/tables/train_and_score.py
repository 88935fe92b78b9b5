"""A training and, where it ends well, inference with what it has stored: a job of a table.

``python train_and_score.py FLAGS -- FLAGS`` takes the flags of train.py for the one and the other.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from crn.system.program import split_words
from crn.system.startup import leave
from train import main


def train_and_score(argv: Sequence[str]) -> int:
    """Run train.py twice; the exit status is that of the first that fails, or 0."""
    training, inference = split_words(argv)
    status = main(training)
    # Processes that train with this one run the same command, and do not score as well.
    if status or os.environ.get("LOCAL_RANK", "0") != "0":
        return status
    return main(inference)


if __name__ == "__main__":
    leave(train_and_score(sys.argv[1:]))
