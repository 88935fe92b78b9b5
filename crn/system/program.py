"""How the programs of this repository read their command lines, and how they end."""

import argparse
import atexit
import functools
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, ParamSpec

from crn.errors import UserError
from crn.system.files import writing
from crn.system.processes import is_told_by_another
from crn.system.text import printable

P = ParamSpec("P")


class Parser(argparse.ArgumentParser):
    """One that raises `UserError` where argparse would end the process."""

    def error(self, message: str) -> NoReturn:
        """Refuse the command line."""
        raise UserError(message)


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words before ``--``, and those after it."""
    end = words.index("--") if "--" in words else len(words)
    return list(words[:end]), list(words[end + 1 :])


def whole_number(lowest: int) -> Callable[[str], int]:
    """A type for arguments: whole numbers from ``lowest`` on."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < lowest:
            raise argparse.ArgumentTypeError(f"takes a whole number from {lowest} on, not {text!r}")
        return int(text)

    return read


def program(
    name: str, interrupted: str = "interrupted"
) -> Callable[[Callable[P, int]], Callable[P, int]]:
    """Decorate a main function: what the user can mend ends it with one line, not a traceback.

    Args:
        name: what the line starts with.
        interrupted: the line after Ctrl-C.

    Returns:
        The decorator. The exit status that the function returns becomes 2 for a `UserError` and 130
        after Ctrl-C.
    """

    def decorate(main: Callable[P, int]) -> Callable[P, int]:
        @functools.wraps(main)
        def run(*args: P.args, **kwargs: P.kwargs) -> int:
            try:
                return main(*args, **kwargs)
            except UserError as error:
                if not is_told_by_another():
                    print(f"{name}: error:", printable(str(error)), file=sys.stderr)
                return 2
            except KeyboardInterrupt:
                print(f"{name}: {interrupted}", file=sys.stderr)
                return 130

        return run

    return decorate


def print_result(text: str) -> None:
    """Print a result. Where nobody reads it any more, as after ``| head``, the run goes on.

    What the encoding of the output lacks is escaped, as Python does on stderr.

    Raises:
        UserError: the system refuses to write it.
    """
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    text = text.encode(encoding, "backslashreplace").decode(encoding)
    with writing(Path("standard output")), suppress(BrokenPipeError):
        print(text, flush=True)


def leave(status: int) -> NoReturn:
    """End the process at once: to take all that torch imports apart takes over a second."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        # A stream that was closed before the start is None, and one that nobody reads breaks.
        if stream is not None:
            with suppress(OSError):
                stream.flush()
    os._exit(status)
