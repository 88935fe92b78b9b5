"""Train competitive reconstruction networks, or score images with trained ones.

``python train.py --help`` lists the options. Everything heavy is imported after the command line
and the data set have been checked.
"""

from crn.command_line import parse_options
from crn.system.program import program
from crn.system.startup import leave


@program("train.py")
def main(argv: list[str]) -> int:
    """Run the program.

    Returns:
        Exit status: 0, 2 for bad input, 128 + N where signal N ended it.
    """
    options = parse_options(argv)
    from crn.run import run

    return run(options)


if __name__ == "__main__":
    leave(main())
