"""Train competitive reconstruction networks, or score images with trained ones.

``python train.py --help`` lists the options. Everything heavy is imported after the command line
and the data set have been checked.
"""

import sys
from collections.abc import Sequence

from crn.command_line import parse_options
from crn.errors import UserError
from crn.processes import is_told_by_another


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        argv: command line, without the program's name; that of the process by default.

    Returns:
        Exit status: 0, 2 for bad input, 128 + N where signal N ended it.
    """
    try:
        options = parse_options(argv)
        from crn.run import run

        return run(options)
    except UserError as error:
        if not is_told_by_another():
            print("train.py: error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("train.py: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
