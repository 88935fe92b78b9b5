"""The one exception for mistakes that the user can mend."""


class UserError(Exception):
    """Bad input. Its message is one line that names the file or flag, and the mend.

    ``train.py`` prints the message without a traceback and exits with status 2.
    """


class Diverged(UserError):
    """The training has run into losses or weights that are not finite.

    Attributes:
        is_sound: whether the model is still as it was before the step that failed.
    """

    def __init__(self, message: str, is_sound: bool) -> None:
        super().__init__(message)
        self.is_sound = is_sound
