"""How the programs of this repository read their command lines, and how they end."""

import argparse
import functools
import importlib.util
import io
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from crn.errors import UserError
from crn.system.files import writing
from crn.system.startup import let_idle_threads_sleep
from crn.system.text import printable, quoted

Main = Callable[[list[str]], int]


class Parser(argparse.ArgumentParser):
    """A parser that raises `UserError` where argparse would end the process."""

    def error(self, message: str) -> NoReturn:
        """Refuse the command line."""
        raise UserError(message)


class PrintableLines(logging.Formatter):
    """Formats log messages so that no part, such as a file name, can control a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """The message, line by line."""
        return "\n".join(map(printable, super().format(record).split("\n")))


def require_packages(use: str, *packages: str, install: str) -> None:
    """Refuse to go on without packages; ``use`` begins the message, as in "sweeps need".

    Raises:
        UserError: names those that are not installed, and what pip has to install.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        noun = "package" if len(missing) == 1 else "packages"
        raise UserError(f"{use} the {noun} {', '.join(missing)}: pip install {install}")


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words before and after ``--``."""
    end = words.index("--") if "--" in words else len(words)
    return list(words[:end]), list(words[end + 1 :])


def whole_number(lowest: int) -> Callable[[str], int]:
    """An argparse type: whole numbers from ``lowest`` on."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < lowest:
            raise argparse.ArgumentTypeError(f"takes a whole number from {lowest} on, not {text!r}")
        return int(text)

    return read


def typed_path(text: str) -> Path:
    """An argparse type: the name of a file or folder, with ``~`` expanded."""
    if not text.strip():
        raise argparse.ArgumentTypeError("takes the name of a file or folder, not an empty one")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text):
        raise argparse.ArgumentTypeError(
            f"takes a file or folder of this machine, not {quoted(text)}: copy it here, or mount it"
        )
    return Path(os.path.expanduser(text))


def program(name: str, interrupted: str = "interrupted") -> Callable[[Main], Callable[..., int]]:
    """Decorate a main function so that a `UserError` ends it with one line, not a traceback.

    Args:
        name: the beginning of the line.
        interrupted: the rest of the line after Ctrl-C.

    Returns:
        The decorator. The function then takes the words after the program's name, by default those
        of the process. The exit status that it returns becomes 2 for a `UserError` and 130 after
        Ctrl-C.
    """

    def decorate(main: Main) -> Callable[..., int]:
        @functools.wraps(main)
        def run(argv: Sequence[str] | None = None) -> int:
            _prepare()
            try:
                return main(list(sys.argv[1:] if argv is None else argv))
            except UserError as error:
                # Of the processes that torchrun has started, one reports the same bad input.
                if not is_under_torchrun() or os.environ.get("LOCAL_RANK", "0") == "0":
                    print(f"{name}: error:", printable(str(error)), file=sys.stderr)
                return 2
            except KeyboardInterrupt:
                print(f"{name}: {interrupted}", file=sys.stderr)
                return 130

        return run

    return decorate


def _prepare() -> None:
    """Open closed standard streams, let them take any text, and limit idle threads."""
    for name, mode in {"stdin": "r", "stdout": "w", "stderr": "w"}.items():
        stream = getattr(sys, name)
        if stream is None:
            # Closed before the start, as for a daemon. This takes its number, since another file
            # with that number would get what libraries and other programs print.
            stream = open(os.devnull, mode, encoding="utf-8")  # noqa: SIM115
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)
        if mode == "w" and isinstance(stream, io.TextIOWrapper):
            # This fails if its file has become a pipe since Python started.
            with suppress(OSError):
                stream.reconfigure(errors="backslashreplace")
    let_idle_threads_sleep()


def is_under_torchrun() -> bool:
    """Whether torchrun has started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def print_result(text: str) -> None:
    """Print a result. If its reader has gone, as after ``| head``, the run continues.

    Raises:
        UserError: the system refuses to write it.
    """
    with writing(Path("standard output")), suppress(BrokenPipeError):
        print(text, flush=True)
