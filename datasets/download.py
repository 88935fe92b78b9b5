"""Fetch the public data sets: ``python -m datasets.download mvtec|roads --root datasets``.

An archive appears under its name once its checksum is verified, and a data set in its folder once
it is complete. Nothing is overwritten.
"""

import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import pooch
from requests import RequestException

from crn.errors import UserError
from crn.system.files import require_writable_folder, writing
from crn.system.program import Parser, program, typed_path
from datasets.layouts import CATEGORIES, LAYOUTS
from datasets.samples import TRAIN, list_samples

MVTEC_PAGE = "https://www.mvtec.com/company/research/datasets/mvtec-ad"
MVTEC_URL = (
    "https://www.mydrive.ch/shares/38536/3830184030e49fe74747669442f0f283/download/"
    "420938113-1629960298/mvtec_anomaly_detection.tar.xz"
)
MVTEC_CHECKSUM = "sha256:cf4313b13603bec67abb49ca959488f7eedce2a9f7795ec54446c649ac98cd3d"
ROADS_DOI = "10.5281/zenodo.7681876"
_CHUNK = 256 * 1024  # bytes; chunks of 1,000, pooch's default, cost a minute for every 4 GB


class _DataSet(NamedTuple):
    archive: str
    folder: str
    layout: str
    parts: tuple[str, ...]  # the folders in it that have the layout
    mark: str  # a folder at its top, by which it is found in the archive
    page: str

    def summary(self, folder: Path) -> str:
        """The number of samples in a folder, in words."""
        layout = LAYOUTS[self.layout]
        samples = [each for part in self.parts for each in list_samples(layout, folder / part)]
        train = sum(sample.split == TRAIN for sample in samples)
        return f"{train:,} samples to train on, {len(samples) - train:,} to test on"


_MVTEC = _DataSet(
    *("mvtec_anomaly_detection.tar.xz", "mvtec", "MVTec", CATEGORIES, CATEGORIES[0], MVTEC_PAGE)
)
_ROADS_PAGE = f"https://doi.org/{ROADS_DOI}"
_ROADS = (
    _DataSet("roadimages.zip", "roadimages", "RoadImages", (".",), "good_ones", _ROADS_PAGE),
    _DataSet("panorama_images.zip", "panorama", "Panorama", (".",), "good_ones", _ROADS_PAGE),
)


def _make(data: _DataSet, root: Path, source: pooch.Pooch) -> None:
    """Download and extract a data set below a folder, unless it is there."""
    archive, folder = root / data.archive, root / data.folder
    if folder.exists():
        try:
            print(f"{folder} exists already: {data.summary(folder)}")
        except UserError as error:
            raise UserError(f"{folder}: exists, but is not whole ({error}); move it away") from None
        return
    kind = pooch.HTTPDownloader if source.urls else pooch.DOIDownloader
    download = kind(progressbar=sys.stderr.isatty(), chunk_size=_CHUNK)
    with writing(folder):
        try:
            if not source.registry:
                source.load_registry_from_doi()
            source.fetch(data.archive, downloader=download)
        except (RequestException, ValueError, KeyError) as error:
            if archive.exists() and not isinstance(error, RequestException):
                raise UserError(f"{archive}: is not the published archive; move it away") from None
            raise UserError(
                f"{source.urls.get(data.archive, data.page)}: {data.archive} cannot be downloaded "
                f"({error}); check the connection, or get it from {data.page}, save it as "
                f"{archive} and run this again"
            ) from None
        print(f"{archive}: {source.registry[data.archive]} as published; extracting", flush=True)
        _extract(data, archive, folder)
    print(f"{folder}: {data.summary(folder)}; {archive} can be removed")


def _extract(data: _DataSet, archive: Path, folder: Path) -> None:
    """Extract a verified archive, and move its data set to its folder once complete."""
    temporary = folder.with_name(f".{folder.name}.extracting")
    shutil.rmtree(temporary, ignore_errors=True)  # left by a killed run
    try:
        shutil.unpack_archive(archive, temporary)
        # The highest one, since __MACOSX repeats the folders of an archive.
        mark = min(temporary.rglob(data.mark), key=lambda path: len(path.parts))
        mark.parent.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@program("datasets.download", "interrupted; run it again")
def main(argv: list[str]) -> int:
    """Run the command and return its exit status: 0, 2 for an error, 130 after Ctrl-C."""
    parser = Parser(
        prog="python -m datasets.download",
        description="Fetch, verify and extract a public data set; nothing is overwritten.",
        allow_abbrev=False,
    )
    names = (
        "mvtec: MVTec AD, 5 GB, to ROOT/mvtec. roads: 280 MB, to ROOT/roadimages and ROOT/panorama"
    )
    parser.add_argument("name", choices=("mvtec", "roads"), help=names)
    root = (
        "folder for archives and data sets; an archive that is already there is used "
        "(default: datasets)"
    )
    default = Path("datasets")
    parser.add_argument("--root", type=typed_path, default=default, metavar="DIR", help=root)
    parser.add_argument("--url", help="mirror of the archive of mvtec")
    args = parser.parse_args(argv)
    if args.url is not None and args.name != "mvtec":
        parser.error("--url is for mvtec; the archives of roads come from the record of their DOI")
    require_writable_folder(args.root, "--root")
    how = {"path": args.root, "retry_if_failed": 2, "allow_updates": False}
    if args.name == "mvtec":
        print(f"MVTec AD is licensed CC BY-NC-SA 4.0, not for commercial use: {MVTEC_PAGE}")
        how["registry"] = {_MVTEC.archive: MVTEC_CHECKSUM}
        how["urls"] = {_MVTEC.archive: args.url or MVTEC_URL}
        source = pooch.create(base_url="", **how)
        _make(_MVTEC, args.root, source)
    else:
        print(f"Panorama and RoadImages, with their licence: {_ROADS_PAGE}")
        source = pooch.create(base_url=f"doi:{ROADS_DOI}/", **how)
        for data in _ROADS:
            _make(data, args.root, source)
    return 0


if __name__ == "__main__":
    sys.exit(main())
