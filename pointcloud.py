"""From point clouds to tiles of the road, and from a model's scores back to map and points.

``python pointcloud.py --help`` lists the commands.
"""

import importlib.util
import sys
from collections.abc import Sequence

from crn.errors import UserError
from crn.system.program import program
from crn.system.startup import leave

_NEEDED = ("geopandas", "laspy", "lazrs", "pyproj", "rasterio")


@program("pointcloud.py")
def main(argv: Sequence[str] | None = None) -> int:
    """Run the program: `run_pointcloud` with these words, or those of the process."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"point clouds need the packages {', '.join(missing)}: "
            "pip install -r requirements-pointcloud.txt"
        )
    from crn.pointcloud.command import run_pointcloud

    return run_pointcloud(sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    leave(main())
