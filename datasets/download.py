"""Fetch the public data sets: ``python -m datasets.download mvtec|roads --root datasets``.

A download that was cut off is continued. What is fetched is compared with its published checksum,
extracted beside what exists, and its layout is checked. Nothing that exists is overwritten.
"""

import argparse
import json
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from crn.errors import UserError
from crn.system.files import require_writable_folder
from crn.system.program import Parser, program
from datasets import LAYOUTS
from datasets.archives import extract
from datasets.fetch import Interrupted, Source, fetch, open_url, read_chunks
from datasets.mvtec import CATEGORIES
from datasets.samples import TEST, TRAIN, Sample, list_samples

MVTEC_PAGE = "https://www.mvtec.com/company/research/datasets/mvtec-ad"
ROADS_PAGE = "https://doi.org/10.5281/zenodo.7681876"
ROADS_RECORD = "https://zenodo.org/api/records/7681876"

MVTEC = Source(
    "https://www.mydrive.ch/shares/38536/3830184030e49fe74747669442f0f283/download/"
    "420938113-1629960298/mvtec_anomaly_detection.tar.xz",
    f"the form at {MVTEC_PAGE}",
    checksum="sha256:cf4313b13603bec67abb49ca959488f7eedce2a9f7795ec54446c649ac98cd3d",
)


@dataclass(frozen=True)
class _RoadSet:
    """One of the two data sets of the Zenodo record."""

    archive: str
    folder: str
    layout: str


_ROAD_SETS = (
    _RoadSet("roadimages.zip", "roadimages", "RoadImages"),
    _RoadSet("panorama_images.zip", "panorama", "Panorama"),
)


def download_mvtec(root: Path, source: Source = MVTEC) -> None:
    """Make ``root/mvtec`` with all categories of MVTec AD, unless it is there.

    An archive that lies in ``root`` already is checked and used instead of a download.

    Raises:
        UserError: the archive cannot be had, is not the published one, or cannot be extracted.
    """
    print(f"MVTec AD is licensed CC BY-NC-SA 4.0, not for commercial use: {MVTEC_PAGE}")
    target = root / "mvtec"
    if not _is_there(target, list_mvtec):
        archive = root / "mvtec_anomaly_detection.tar.xz"
        _install(source, archive, target, CATEGORIES, list_mvtec)


def download_roads(root: Path, record: str = ROADS_RECORD) -> None:
    """Make ``root/roadimages`` and ``root/panorama``, unless they are there.

    Args:
        root: their folder. An archive that lies there already is checked and used instead of a
            download.
        record: address of the Zenodo record, as its API gives it: it lists the files.

    Raises:
        UserError: the record or an archive cannot be had, is not the published one, or cannot be
            extracted.
    """
    print(f"Panorama and RoadImages, with their licence: {ROADS_PAGE}")
    sources = None
    for road_set in _ROAD_SETS:

        def list_set(folder: Path, layout: str = road_set.layout) -> list[Sample]:
            return list_samples(LAYOUTS[layout], folder)

        target = root / road_set.folder
        if _is_there(target, list_set):
            continue
        if sources is None:
            sources = read_record(record)
        if road_set.archive not in sources:
            raise UserError(f"{record}: lists no {road_set.archive}; see {ROADS_PAGE}")
        source = sources[road_set.archive]
        _install(source, root / road_set.archive, target, ("good_ones", "bad_ones"), list_set)


def list_mvtec(root: Path) -> list[Sample]:
    """The samples of all categories of MVTec AD.

    Raises:
        UserError: a category, or a part of one, is missing.
    """
    missing = [
        f"{category}/{part}"
        for category in CATEGORIES
        for part in ("train/good", "test/good", "ground_truth")
        if not (root / category / part).is_dir()
    ]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise UserError(f"{root}: lacks {', '.join(missing[:5])}{more}")
    return [
        sample
        for category in CATEGORIES
        for sample in list_samples(LAYOUTS["MVTec"], root / category)
    ]


def read_record(url: str) -> dict[str, Source]:
    """The files of a Zenodo record.

    Args:
        url: of the record's JSON.

    Returns:
        Sources by file name.

    Raises:
        UserError: it cannot be had, or is no such record.
    """
    try:
        with open_url(url, f"see {ROADS_PAGE}") as response:
            text = b"".join(read_chunks(response))
    except Interrupted as error:
        raise UserError(f"{url}: {error}; check the connection and run this again") from None
    try:
        return {
            file["key"]: Source(
                file["links"]["self"], ROADS_PAGE, int(file["size"]), _known(file.get("checksum"))
            )
            for file in json.loads(text)["files"]
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{url}: not a Zenodo record that lists files, sizes and checksums; see {ROADS_PAGE}"
        ) from None


def _known(checksum: str | None) -> str | None:
    """A checksum in lower case; ValueError where it is of a kind that is not computed here."""
    if checksum is None:
        return None
    algorithm, _, digits = checksum.lower().partition(":")
    if algorithm not in ("md5", "sha256") or not digits:
        raise ValueError(checksum)
    return f"{algorithm}:{digits}"


def _is_there(target: Path, list_set: Callable[[Path], list[Sample]]) -> bool:
    try:
        samples = list_set(target)
    except UserError:
        return False
    print(f"{target} is there already: {_summary(samples)}; move it away to fetch it again")
    return True


def _install(
    source: Source,
    archive: Path,
    target: Path,
    wanted: Collection[str],
    list_set: Callable[[Path], list[Sample]],
) -> None:
    """Fetch an archive, extract the folder that holds the wanted ones, and check the result."""
    print(f"{archive} is used" if archive.exists() else f"downloading {source.url}", flush=True)
    checksum = fetch(source, archive)
    verdict = "as published" if source.checksum else "none is published to compare with"
    print(f"{archive}: {archive.stat().st_size:,} bytes, {checksum} ({verdict})")
    for path in extract(archive, target, wanted):
        print(f"{str(path)!r} was there before and is kept as it was")
    try:
        samples = list_set(target)
    except UserError as error:
        raise UserError(f"{archive} is extracted, but not a whole data set: {error}") from None
    print(f"{target}: {_summary(samples)}; {archive} can be removed")


def _summary(samples: Sequence[Sample]) -> str:
    train, test = (sum(s.split == split for s in samples) for split in (TRAIN, TEST))
    return f"{train:,} samples to train on, {test:,} to test on"


def _path(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError("takes the name of a folder, not an empty one")
    return Path(text)


def _build_parser() -> Parser:
    parser = Parser(
        prog="python -m datasets.download",
        description="Fetch, verify and extract a public data set. A download that was cut off is "
        "continued; nothing that exists is overwritten.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "name",
        choices=("mvtec", "roads"),
        help="mvtec: MVTec AD, 5 GB, to ROOT/mvtec. roads: 280 MB, to ROOT/roadimages and "
        "ROOT/panorama",
    )
    parser.add_argument(
        "--root",
        type=_path,
        default=Path("datasets"),
        metavar="DIR",
        help="the folder to make them in; an archive that lies there already is used "
        "(default: datasets)",
    )
    parser.add_argument(
        "--url",
        help="a mirror: the address of the same archive (mvtec), or of the JSON of the Zenodo "
        "record (roads)",
    )
    return parser


@program("datasets.download", "interrupted; run it again to continue")
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: command line, without the program's name; that of the process by default.

    Returns:
        Exit status: 0, 2 for bad input or a failed download, 130 after Ctrl-C.
    """
    args = _build_parser().parse_args(argv)
    require_writable_folder(args.root, "--root")
    try:
        if args.name == "mvtec":
            download_mvtec(args.root, MVTEC if args.url is None else replace(MVTEC, url=args.url))
        else:
            download_roads(args.root, ROADS_RECORD if args.url is None else args.url)
    except OSError as error:
        raise UserError(str(error)) from error
    return 0


if __name__ == "__main__":
    sys.exit(main())
