"""torchmetrics, imported without what this program never uses.

It imports torchvision and SciPy for metrics that nobody asks for here: about two seconds of every
start. It asks lightning_utilities whether they are installed, and is told that they are not, for
the time of its own import.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from lightning_utilities.core import imports

_HIDDEN = ("torchvision", "scipy")


@contextmanager
def _hidden_from_torchmetrics() -> Iterator[None]:
    is_met = imports.RequirementCache.__bool__
    is_available = imports.package_available

    def requirement(self: imports.RequirementCache) -> bool:
        return not str(self.requirement).startswith(_HIDDEN) and is_met(self)

    def package(name: str) -> bool:
        return not name.startswith(_HIDDEN) and is_available(name)

    with (
        patch.object(imports.RequirementCache, "__bool__", requirement),
        patch.object(imports, "package_available", package),
    ):
        yield


with _hidden_from_torchmetrics():
    from torchmetrics.functional import classification

__all__ = ["classification"]
