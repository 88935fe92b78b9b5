"""Exceptions for problems that the user can fix."""


class UserError(Exception):
    """Bad input. Its message is one line that names the file or flag, and the fix.

    ``train.py`` prints the message without a traceback and exits with status 2.
    """


class Diverged(UserError):
    """Losses or scores of a training run are not finite."""


class DivergedInOneProcess(Diverged):
    """Only one of several processes has diverged; the others do not know yet."""
