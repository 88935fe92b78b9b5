"""Fetch the public data sets: ``python -m datasets.download mvtec|roads --root datasets``.

An archive is compared with its published checksum before it gets its name, extracted beside what
exists, and the layout of the result is checked. Nothing that exists is overwritten.
"""

import io
import json
import lzma
import os
import shutil
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from tqdm import tqdm

from crn.errors import UserError
from crn.system.files import claimed, require_writable_folder, writing, written_whole
from crn.system.program import Parser, program, typed_path
from datasets.folders import is_litter
from datasets.layouts import CATEGORIES, LAYOUTS
from datasets.samples import TEST, TRAIN, Sample, list_samples

MVTEC_PAGE = "https://www.mvtec.com/company/research/datasets/mvtec-ad"
MVTEC_URL = (
    "https://www.mydrive.ch/shares/38536/3830184030e49fe74747669442f0f283/download/"
    "420938113-1629960298/mvtec_anomaly_detection.tar.xz"
)
MVTEC_CHECKSUM = "sha256:cf4313b13603bec67abb49ca959488f7eedce2a9f7795ec54446c649ac98cd3d"
ROADS_PAGE = "https://doi.org/10.5281/zenodo.7681876"
ROADS_RECORD = "https://zenodo.org/api/records/7681876"


class _DataSet(NamedTuple):
    """A data set to make: the archive, the folder, its layout, and the folders at its top."""

    archive: str
    folder: str
    layout: str
    top: tuple[str, ...]

    def samples(self, root: Path) -> list[Sample]:
        """All samples, of all categories where there are some."""
        folder, layout = root / self.folder, LAYOUTS[self.layout]
        folders = [folder / name for name in self.top] if self.top == CATEGORIES else [folder]
        return [sample for each in folders for sample in list_samples(layout, each)]


_MVTEC = _DataSet("mvtec_anomaly_detection.tar.xz", "mvtec", "MVTec", CATEGORIES)
_ROADS = (
    _DataSet("roadimages.zip", "roadimages", "RoadImages", ("good_ones", "bad_ones")),
    _DataSet("panorama_images.zip", "panorama", "Panorama", ("good_ones", "bad_ones")),
)
_ATTEMPTS = 3
_TIMEOUT = 60  # seconds without a single byte
# HTTP statuses of 400 to 499 that pass: timeout, too early, too many requests.
_PASSING = {408, 425, 429}
# What archives that are cut off, encrypted or hostile, or none, make the libraries raise.
_DAMAGE = (
    *(shutil.ReadError, tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error),
    *(EOFError, ValueError, RuntimeError),
)


def download_mvtec(root: Path, url: str) -> None:
    """Make ``root/mvtec`` with all categories of MVTec AD, unless it is there.

    Raises:
        UserError: see `_fetch` and `_install`.
    """
    print(f"MVTec AD is licensed CC BY-NC-SA 4.0, not for commercial use: {MVTEC_PAGE}")
    if not _is_there(_MVTEC, root):
        _fetch(url, root / _MVTEC.archive, MVTEC_CHECKSUM, f"the form at {MVTEC_PAGE}")
        _install(_MVTEC, root)


def download_roads(root: Path, record: str) -> None:
    """Make ``root/roadimages`` and ``root/panorama``, unless they are there.

    Args:
        root: their folder.
        record: address of the JSON of the Zenodo record, which lists the files.

    Raises:
        UserError: the record cannot be had or read; or see `_fetch` and `_install`.
    """
    print(f"Panorama and RoadImages, with their licence: {ROADS_PAGE}")
    missing = [data for data in _ROADS if not _is_there(data, root)]
    files = _read_record(record) if missing else {}
    for data in missing:
        if data.archive not in files:
            raise UserError(f"{record}: lists no {data.archive}; see {ROADS_PAGE}")
        url, checksum = files[data.archive]
        _fetch(url, root / data.archive, checksum, ROADS_PAGE)
        _install(data, root)


def _is_there(data: _DataSet, root: Path) -> bool:
    try:
        samples = data.samples(root)
    except UserError:
        return False
    folder = root / data.folder
    print(f"{folder} is there already: {_summary(samples)}; move it away to fetch it again")
    return True


def _summary(samples: Sequence[Sample]) -> str:
    train, test = (sum(s.split == split for s in samples) for split in (TRAIN, TEST))
    return f"{train:,} samples to train on, {test:,} to test on"


def _read_record(url: str) -> dict[str, tuple[str, str]]:
    """Address and checksum of the files of a Zenodo record, by name."""
    text = io.BytesIO()
    _get(url, text, f"see {ROADS_PAGE}")
    try:
        files = json.loads(text.getvalue())["files"]
        record = {f["key"]: (f["links"]["self"], f["checksum"].lower()) for f in files}
        if not all(checksum.startswith(("md5:", "sha256:")) for _, checksum in record.values()):
            raise ValueError(record)
        return record
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{url}: not a Zenodo record that lists files with their checksums; see {ROADS_PAGE}"
        ) from None


def _fetch(url: str, archive: Path, checksum: str, elsewhere: str) -> None:
    """Make sure that an archive is there, and the one that is published.

    Args:
        url: its address.
        archive: what lies there already is checked and used, or refused.
        checksum: "sha256:..." or "md5:...".
        elsewhere: where people find it when the address is of no use.

    Raises:
        UserError: it cannot be had or written, or has another checksum.
    """
    if archive.exists():
        print(f"{archive} is used", flush=True)
        _verify(archive, checksum, str(archive), "move it away to download it again")
        return
    print(f"downloading {url}", flush=True)
    advice = f"get it from {elsewhere}, save it as {archive} and run this again"
    with claimed(archive), written_whole(archive) as file:
        _get(url, file, advice)
        file.flush()
        _verify(Path(file.name), checksum, url, f"not kept; {advice}")


def _verify(path: Path, checksum: str, name: str, advice: str) -> None:
    import pooch

    algorithm = checksum.partition(":")[0]
    found = f"{algorithm}:{pooch.file_hash(str(path), algorithm)}"
    if found != checksum:
        raise UserError(f"{name}: has the checksum {found} instead of {checksum}; {advice}")
    print(f"{name}: {path.stat().st_size:,} bytes, {checksum} as published", flush=True)


def _get(url: str, file: IO[bytes], advice: str) -> None:
    """Write what an address gives to a file.

    Args:
        url: of http or https.
        file: seekable.
        advice: end of the message where there is no such thing.

    Raises:
        UserError: the address is none, or the server does not give it in several attempts.
    """
    import pooch
    import requests

    def check(response: requests.Response, **_: Any) -> None:
        status = response.status_code
        if 400 <= status < 500 and status not in _PASSING:
            raise UserError(f"{url}: the server answers {status} {response.reason}; {advice}")
        if status == 200 and response.headers.get("Content-Type", "").startswith("text/html"):
            raise UserError(f"{url}: the server answers with a web page; {advice}")

    for attempts_left in reversed(range(_ATTEMPTS)):
        file.seek(0)
        file.truncate()
        # The downloader replaces the total; without one it would take the bar for none.
        with tqdm(desc="download", total=1, unit="B", unit_scale=True, disable=None) as bar:
            get = pooch.HTTPDownloader(bar, 1 << 18, timeout=_TIMEOUT, hooks={"response": check})
            try:
                get(url, file, None)
                return
            except ValueError as error:
                raise UserError(f"{url}: not an address of http or https ({error})") from None
            except requests.RequestException as error:
                if not attempts_left:
                    raise UserError(
                        f"{url}: cannot be downloaded ({_reason(error)}); check the connection and "
                        "run this again"
                    ) from None


def _reason(error: BaseException) -> str:
    """What a chain of errors began with, without the objects that it went through."""
    while error.__context__ is not None:
        error = error.__context__
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _install(data: _DataSet, root: Path) -> None:
    """Extract the folder of an archive that holds the data set, and check the result.

    Raises:
        UserError: the archive cannot be extracted, or holds no whole data set.
    """
    archive, target = root / data.archive, root / data.folder
    print(f"extracting {archive}", flush=True)
    require_writable_folder(target, "--root")
    with (
        claimed(target),
        writing(target),
        tempfile.TemporaryDirectory(dir=target, prefix=".extracting-") as temporary,
    ):
        folder = Path(temporary)
        for left in target.glob(".extracting-*"):  # by a run that was killed
            if left != folder:
                shutil.rmtree(left)
        try:
            # Zip files need no filter: of them, nothing is extracted that leads out of the folder.
            if archive.suffix == ".zip":
                shutil.unpack_archive(archive, folder)
            else:
                shutil.unpack_archive(archive, folder, filter="data")
        except _DAMAGE as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"{archive}: cannot be extracted ({reason}); replace it") from None
        found = [path for name in data.top for path in folder.rglob(name) if path.is_dir()]
        found = [path for path in found if not any(map(is_litter, path.relative_to(folder).parts))]
        if not found:
            raise UserError(f"{archive}: holds no folder {' or '.join(data.top)}; replace it")
        _move(min(found, key=lambda path: len(path.parts)).parent, target)
    try:
        samples = data.samples(root)
    except UserError as error:
        raise UserError(f"{archive} is extracted, but not a whole data set: {error}") from None
    print(f"{target}: {_summary(samples)}; {archive} can be removed")


def _move(source: Path, target: Path) -> None:
    """Move what is in a folder to another one, and name what stays as it was there."""
    for item in sorted(source.iterdir()):
        there = target / item.name
        if is_litter(item.name):
            continue
        if not os.path.lexists(there):
            item.rename(there)
        elif item.is_dir() and there.is_dir():
            _move(item, there)
        else:
            print(f"{str(there)!r} was there before and is kept as it was")


@program("datasets.download", "interrupted; run it again")
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: command line, without the program's name; that of the process by default.

    Returns:
        Exit status: 0, 2 for bad input or a failed download, 130 after Ctrl-C.
    """
    parser = Parser(
        prog="python -m datasets.download",
        description="Fetch, verify and extract a public data set; nothing is overwritten.",
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
        type=typed_path,
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
    args = parser.parse_args(argv)
    download, address = {
        "mvtec": (download_mvtec, MVTEC_URL),
        "roads": (download_roads, ROADS_RECORD),
    }[args.name]
    require_writable_folder(args.root, "--root")
    try:
        download(args.root, address if args.url is None else args.url)
    except OSError as error:
        raise UserError(str(error)) from error
    return 0


if __name__ == "__main__":
    sys.exit(main())
