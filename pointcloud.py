"""From point clouds to tiles of the road, and from a model's scores back to map and points.

``python pointcloud.py --help`` lists the commands.
"""

from crn.system.program import program, require_packages
from crn.system.startup import leave

_NEEDED = ("geopandas", "laspy", "lazrs", "pyproj", "rasterio")


@program("pointcloud.py")
def main(argv: list[str]) -> int:
    """Run the program."""
    require_packages("point clouds need", *_NEEDED, install="-r requirements-pointcloud.txt")
    from crn.pointcloud.command import run_pointcloud

    return run_pointcloud(argv)


if __name__ == "__main__":
    leave(main())
