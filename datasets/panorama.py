"""Panorama: labelled street photographs from mapping vehicles (doi:10.5281/zenodo.7681876)."""

from pathlib import Path

from datasets.samples import Sample, image_files, split_good_and_bad, subfolder


def panorama(root: Path) -> list[Sample]:
    """Samples of good_ones/* and bad_ones/*.

    Raises:
        UserError: a folder is missing or empty.
    """
    good = image_files(subfolder(root, "good_ones"))
    bad = image_files(subfolder(root, "bad_ones"))
    return split_good_and_bad(
        [(file,) for file in good], [(file,) for file in bad], root / "good_ones"
    )
