"""Damage to files, as disks, networks and crashes do it."""

import random
from collections.abc import Callable


def cut(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content))]


def overwritten(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(chance.choice((1, 3, 30))):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)


def without_a_part(content: bytes, chance: random.Random) -> bytes:
    start, end = sorted(chance.sample(range(len(content)), 2))
    return content[:start] + content[end:]


def zeroed(content: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(content))
    return content[:start] + bytes(len(content) - start)


DAMAGES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "cut off": cut,
    "bytes overwritten": overwritten,
    "a part missing": without_a_part,
    "zeros at the end": zeroed,
}


def damaged(content: bytes, chance: random.Random) -> tuple[bytes, str]:
    """Bytes damaged at a random place, and the kind of damage."""
    kind = chance.choice(list(DAMAGES))
    return DAMAGES[kind](content, chance), kind
