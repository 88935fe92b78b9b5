"""The job of a table: a training run and, if it succeeds, inference with its checkpoint.

``python train_and_score.py FLAGS -- FLAGS`` takes the flags of train.py for training and inference.
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
    """Run train.py twice; returns the exit status of the first that fails, or 0."""
    training, inference = split_words(argv)
    status = main(training)
    # Other processes of the same training run execute this command, too, but only one scores.
    if status or os.environ.get("LOCAL_RANK", "0") != "0":
        return status
    return main(inference)


if __name__ == "__main__":
    leave(train_and_score(sys.argv[1:]))
