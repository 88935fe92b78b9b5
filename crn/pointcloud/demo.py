"""The demo: synthetic streets, three undamaged and one damaged."""

from pathlib import Path

import numpy as np

from crn.pointcloud.folders import publish, require_new_folder, working_in
from crn.pointcloud.street import make_street, write_covers, write_scan, write_truth
from crn.pointcloud.street_ground import some_damages
from crn.pointcloud.vectors import PLACES_FILE
from crn.system.program import print_result

# Metres of each sound street: one to train on, one for the threshold, and one to check it.
LENGTH = 128
COVERS_FILE = "covers.gpkg"
_SOUND = ("sound.laz", "sound_2.laz", "sound_3.laz")


def make_demo(folder: Path) -> None:
    """Write three sound and a damaged synthetic street, and where damage and covers are.

    Raises:
        UserError: the folder is not empty, or cannot be written to.
    """
    require_new_folder(folder, "folder", "demo")
    with working_in(folder) as work:
        streets = []
        for number, name in enumerate(_SOUND):
            place = (362_000.0, 5_701_234.0 + 300 * number, 60.0)
            streets.append(make_street(LENGTH, [], seed=10 + number, place=place))
            write_scan(work / name, streets[-1])
        # Further east: sorted by name, its tiles come last.
        damages = some_damages(np.random.default_rng(5), 96)
        damaged = make_street(96, damages, seed=2, place=(362_200.0, 5_701_300.0, 66.0))
        write_scan(work / "damaged.laz", damaged)
        write_truth(work / PLACES_FILE, damaged)
        write_covers(work / COVERS_FILE, [*streets, damaged])
        publish(work, folder)
    files = ", ".join((*_SOUND, "damaged.laz", COVERS_FILE))
    print_result(f"{folder}: {files}, and {len(damages)} damages in {PLACES_FILE}")
