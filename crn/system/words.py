"""Words of the texts that people read."""


def counted(number: int, noun: str) -> str:
    """A number of things: "1 image", "5,000 images"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
