"""Reading a checkpoint file that somebody may have made to do harm.

`torch.load` with ``weights_only`` runs no code. It would, though, unpack kilobytes to gigabytes,
take as much memory as a number in the file says, and return containers whose methods the file has
replaced. So the file is looked at before it is loaded, and what it holds is made plain after.
"""

import pickle
import pickletools
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crn.errors import UserError

# What tensors, and the dictionaries around them, are made of.
_CALLED = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch ByteStorage",
    "torch FloatStorage",
    "torch LongStorage",
}
_NUMBERS = {"BINFLOAT", "BININT", "BININT1", "BININT2"}


def read_plain(path: Path) -> Any:
    """What `torch.save` has written: dictionaries, lists, tensors on the CPU, numbers and text.

    Tensors stay on the disk until they are used, and all of them together are no larger than the
    file.

    Raises:
        UserError: the file is none, is damaged, or holds anything else.
    """
    try:
        _look_at(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return _made_plain(content, path.stat().st_size)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: refused, since it is no checkpoint or holds more than numbers and text; "
            "give one that this program wrote"
        ) from error
    except Exception as error:
        # Readers raise whatever a damaged file makes them stumble over.
        raise UserError(f"{path}: not a checkpoint, or a damaged one") from error


def _look_at(path: Path) -> None:
    """Refuse a file that would take more memory or time than one of its size should.

    Raises:
        UnpicklingError: it would.
        Exception: whatever `zipfile` and `pickletools` raise; the file is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        # Other readers of such files have to see what is seen here: an archive that starts with
        # the file and ends with it, and names that differ, also where capitals do not count.
        is_unambiguous = (
            entries[0].header_offset == 0
            and not archive.comment
            and len({entry.filename.lower() for entry in entries}) == len(entries)
        )
        is_compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
        unpacked = sum(entry.file_size for entry in entries)
        if is_compressed or not is_unambiguous or unpacked > path.stat().st_size:
            raise pickle.UnpicklingError
        folder, _, _ = entries[0].filename.partition("/")
        _look_at_pickle(archive.read(f"{folder}/data.pkl"))


def _look_at_pickle(data: bytes) -> None:
    """Refuse calls of other functions than tensors need, and tuples that hold others many times.

    A tuple that is used twice in a tuple, which is used twice in a tuple, and so on, takes little
    memory, but the hash of it endless time. Honest files use tuples again only where they hold
    numbers, such as an optimizer's coefficients.

    Raises:
        UnpicklingError: there are such.
    """
    reusable: dict[int, bool] = {}
    recent = [""] * 4
    for opcode, argument, _ in pickletools.genops(data):
        name = opcode.name
        if name == "GLOBAL" and argument not in _CALLED:
            raise pickle.UnpicklingError
        if name in ("BINPUT", "LONG_BINPUT"):
            count = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}.get(recent[-1], 0)
            holds_numbers = count > 0 and set(recent[-1 - count : -1]) <= _NUMBERS
            reusable[argument] = not recent[-1].startswith("TUPLE") or holds_numbers
        elif name in ("BINGET", "LONG_BINGET") and not reusable[argument]:
            raise pickle.UnpicklingError
        recent = [*recent[1:], name]


def _made_plain(content: Any, most_bytes: int) -> Any:
    """A copy of plain dictionaries and lists, whose methods are those of the language.

    Args:
        content: what was loaded; tensors are shared with the copy.
        most_bytes: what all tensors may have together. A tensor that repeats few values by its
            strides would have more, and would fill the memory where it is copied.

    Raises:
        UnpicklingError: they have more.
        RecursionError: containers lie too deep in one another.
    """
    copies: dict[int, Any] = {}
    total = 0

    def plain(value: Any) -> Any:
        nonlocal total
        if id(value) in copies:
            return copies[id(value)]
        if isinstance(value, dict):
            copies[id(value)] = copy = {}
            copy.update((key, plain(item)) for key, item in dict.items(value))
            return copy
        if isinstance(value, list):
            copies[id(value)] = copy = []
            copy.extend(map(plain, value))
            return copy
        if isinstance(value, Tensor):
            total += value.numel() * value.element_size()
            if total > most_bytes:
                raise pickle.UnpicklingError
            copies[id(value)] = value.detach()
            return copies[id(value)]
        return value

    try:
        return plain(content)
    finally:
        # The function knows itself, and would keep the file open until such circles are looked for.
        copies.clear()
