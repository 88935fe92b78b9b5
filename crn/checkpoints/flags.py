"""Which options a checkpoint decides, and flags that contradict it."""

from typing import Any

from crn.checkpoints.reading import Checkpoint
from crn.config import GROUPS, Options
from crn.errors import UserError
from crn.option import ALWAYS, WHEN_SCORING, fixed_options, flag
from crn.system.text import shortened


def options_to_score(checkpoint: Checkpoint, options: Options) -> Options:
    """Options for scoring: where no flag was typed, as the model was trained.

    The batch size is that of the program, since it does not change scores.

    Raises:
        UserError: a flag contradicts the model.
    """
    _refuse_contradictions(checkpoint, options, (ALWAYS, WHEN_SCORING))
    trained = checkpoint.config.values()
    del trained["batch_size"]
    return _with_defaults(options, trained)


def options_to_resume(checkpoint: Checkpoint, options: Options) -> Options:
    """Options for training on: where no flag was typed, as before.

    Raises:
        UserError: a flag contradicts the model.
    """
    _refuse_contradictions(checkpoint, options, (ALWAYS,))
    trained = checkpoint.config.values()
    # Both say how long to train: the one that was typed counts.
    for typed, other in (("epochs", "training_steps"), ("training_steps", "epochs")):
        if typed in options.given:
            trained[other] = getattr(options.optimization, other)
    return _with_defaults(options, trained)


def _with_defaults(options: Options, trained: dict[str, Any]) -> Options:
    return options.replace(**{n: v for n, v in trained.items() if n not in options.given})


def _refuse_contradictions(
    checkpoint: Checkpoint, options: Options, kinds: tuple[str, ...]
) -> None:
    trained, asked = checkpoint.config.values(), options.values()
    for name in fixed_options(GROUPS.values(), kinds):
        if name in options.given and asked[name] != trained[name]:
            raise UserError(
                f"{flag(name)} {_words(asked[name])} contradicts {checkpoint.path}, which was "
                f"trained with {shortened(_words(trained[name]))}: leave the flag out"
            )


def _words(value: Any) -> str:
    """A value of an option, as it is typed."""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
