"""MVTec AD: one category of industrial images with masks (Bergmann et al., CVPR 2019)."""

import os
from collections.abc import Iterator
from pathlib import Path

from crn.errors import UserError
from datasets.samples import (
    ANOMALOUS,
    NORMAL,
    TEST,
    TRAIN,
    Sample,
    image_files,
    subfolder,
    subfolders,
)

CATEGORIES = (
    *("bottle", "cable", "capsule", "carpet", "grid", "hazelnut", "leather", "metal_nut"),
    *("pill", "screw", "tile", "toothbrush", "transistor", "wood", "zipper"),
)


def mvtec(root: Path) -> Iterator[Sample]:
    """Samples of CATEGORY/train/good, CATEGORY/test/DEFECT and CATEGORY/ground_truth/DEFECT.

    A test image's key is DEFECT/NAME; names repeat between train/good and test/good, so a training
    image's is train/good/NAME.

    Raises:
        UserError: a folder or a mask is missing.
    """
    if not os.path.isdir(root / "train") and any(root.glob("*/train/good")):
        raise UserError(
            f"{root}: holds several categories; give the folder of one, such as "
            f"{min(root.glob('*/train/good')).parent.parent}"
        )
    for file in image_files(subfolder(subfolder(root, "train"), "good")):
        yield Sample(f"train/good/{file.name}", (file,), TRAIN, NORMAL)
    test = subfolder(root, "test")
    for folder in subfolders(test):
        for file in image_files(folder):
            if folder.name == "good":
                yield Sample(f"good/{file.name}", (file,), TEST, NORMAL)
            else:
                mask = _mask(root / "ground_truth", folder.name, file)
                yield Sample(f"{folder.name}/{file.name}", (file,), TEST, ANOMALOUS, mask)


def _mask(ground_truth: Path, defect: str, file: Path) -> Path | None:
    """The mask of a test image, or None where the data set comes without masks."""
    if not os.path.isdir(ground_truth):
        return None
    mask = ground_truth / defect / f"{file.stem}_mask.png"
    if not os.path.isfile(mask):
        raise UserError(f"{mask}: no such file; {file} has to have a mask")
    return mask
