"""The demo: a synthetic street, undamaged and damaged."""

from pathlib import Path

import numpy as np

from crn.pointcloud.folders import publish, require_new_folder, working_in
from crn.pointcloud.street import make_street, some_damages, write_scan, write_truth
from crn.pointcloud.vectors import PLACES_FILE
from crn.system.program import print_result


def make_demo(folder: Path) -> None:
    """Write an undamaged and a damaged synthetic street, and where the damage is.

    Raises:
        UserError: the folder is not empty, or cannot be written to.
    """
    require_new_folder(folder, "folder", "demo")
    with working_in(folder) as work:
        write_scan(work / "sound.laz", make_street(64, [], seed=1))
        # The next stretch further east: sorted by name, its tiles come last.
        damages = some_damages(np.random.default_rng(5), 32)
        damaged = make_street(32, damages, seed=2, place=(362_100.0, 5_701_300.0, 66.0))
        write_scan(work / "damaged.laz", damaged)
        write_truth(work / PLACES_FILE, damaged)
        publish(work, folder)
    print_result(f"{folder}: sound.laz, damaged.laz, and {len(damages)} damages in {PLACES_FILE}")
