"""The one exception for mistakes that the user can mend."""


class UserError(Exception):
    """Bad input. Its message is one line that names the file or flag, and the mend.

    ``train.py`` prints the message without a traceback and exits with status 2.
    """


class Diverged(UserError):
    """The training has run into losses or scores that are not finite."""


class DivergedInOneProcess(Diverged):
    """One process has found out, and the others that train with it do not know."""
