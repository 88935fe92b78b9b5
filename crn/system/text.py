"""Text from outside, such as file names, made harmless for terminals, tables and logs.

Names and strings in checkpoints are free text: a terminal obeys escape sequences in it, a
spreadsheet computes what looks like a formula, and a line break ends a line of a log.
"""

import os
import re
import reprlib

# Of CSV files: without a byte order mark, spreadsheets assume another encoding.
SPREADSHEET_ENCODING = "utf-8-sig"

_LONGEST = 200
_LONGEST_NAME = 255  # bytes
# What spreadsheets take for the start of a formula (OWASP, CSV injection), with any apostrophes in
# front, so that `spreadsheet_cell` is reversible.
_FORMULA = re.compile("'*[=+\\-@\t\r\n＝＋－＠]")


def printable(text: str) -> str:
    """One line for terminals and logs, with unprintable characters as in ``\\x1b``."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def counted(number: int, noun: str) -> str:
    """A number of things: "1 image", "5,000 images"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def quoted(value: object) -> str:
    """The `repr` of any value, shortened, for messages that quote what is wrong.

    It takes bounded time even if containers hold each other.
    """
    if isinstance(value, int) and value.bit_length() > _LONGEST:
        return f"a number of {value.bit_length()} bits"
    return shortened(_SHORT.repr(value))


def shortened(text: str) -> str:
    """The beginning of a text, on one line."""
    return printable(text if len(text) <= _LONGEST else text[:_LONGEST] + "...")


_SHORT = reprlib.Repr()
_SHORT.maxlevel = 2
_SHORT.maxstring = _SHORT.maxother = _LONGEST


def file_name(stem: str, ending: str) -> str:
    """``stem + ending``, with the stem shortened if the name is too long for file systems."""
    encoded = os.fsencode(stem)
    room = _LONGEST_NAME - len(os.fsencode(ending))
    return (stem if len(encoded) <= room else encoded[:room].decode(errors="ignore")) + ending


def spreadsheet_cell(text: str) -> str:
    """Text for a cell of a CSV file that no spreadsheet takes for a formula.

    Text that it would take for one gets an apostrophe in front: ``'='`` becomes ``"'="``, and
    ``"'="`` becomes ``"''="``. A program restores the text by removing the first apostrophe of any
    run of apostrophes before such a character.
    """
    return "'" + text if _FORMULA.match(text) else text
