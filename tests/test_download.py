"""The download command, against a local server."""

import hashlib
import io
import json
import os
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from conftest import Finished

from datasets import download
from datasets.download import CATEGORIES, MVTEC_PAGE, ROADS_DOI, main
from datasets.layouts import LAYOUTS
from datasets.samples import list_samples

ARCHIVE = Path("data/mvtec_anomaly_detection.tar.xz")
RECORD = "https://zenodo.org/api/records/7681876"


class Handler(SimpleHTTPRequestHandler):
    server: "Server"

    def log_request(self, *_: Any) -> None:
        self.server.asked.append(self.path)

    def log_message(self, *_: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    """Serves the files of a folder, and notes the paths that were asked for."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(Handler, directory=folder))
        self.folder = folder
        self.asked: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def server(monkeypatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server, which also takes the place of Zenodo."""
    get = requests.get

    def redirected(url: str, **how: Any) -> Any:
        if url == f"https://doi.org/{ROADS_DOI}":
            return SimpleNamespace(url="https://zenodo.org/records/7681876", status_code=200)
        return get(url.replace(RECORD, f"{server.url}/record"), **how)

    monkeypatch.setattr(requests, "get", redirected)
    monkeypatch.setattr("pooch.core.time", SimpleNamespace(sleep=lambda seconds: None))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    with Server(tmp_path_factory.mktemp("server")) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def run(server: Server, tmp_path: Path, monkeypatch, capsys) -> Callable[..., Finished]:
    """Run the command in this process and in ``tmp_path``, with data/ for its root."""
    monkeypatch.chdir(tmp_path)

    def run_here(*args: str) -> Finished:
        capsys.readouterr()
        return Finished(main([*args[:1], "--root", "data", *args[1:]]), *capsys.readouterr())

    return run_here


def assert_refused(result: Finished, *mentions: str) -> None:
    """The command ended with status 2 and one line of error with everything mentioned."""
    assert result.status == 2
    assert result.err.startswith("datasets.download: error: ")
    assert result.err.count("\n") == 1
    for mention in mentions:
        assert mention in result.err


def tree(folder: Path) -> dict[str, bytes]:
    """All files in a folder, and folders without any."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
        if path.is_file() or not any(path.iterdir())
    }


def mvtec_archive() -> bytes:
    """A miniature of MVTec AD: only names count."""
    parts = (
        *("train/good/000.png", "train/good/001.png", "test/good/000.png"),
        *("test/crack/000.png", "ground_truth/crack/000_mask.png"),
    )
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:xz", preset=0) as tar:
        for category in CATEGORIES:
            for part in parts:
                info = tarfile.TarInfo(f"{category}/{part}")
                info.mode = 0o444  # as in the archive of MVTec AD
                tar.addfile(info)
    return archive.getvalue()


@pytest.fixture
def mvtec(run: Callable, server: Server, monkeypatch) -> Callable[..., Finished]:
    """Run the command for MVTec AD where its archive is this one."""

    def fetch(content: bytes) -> Finished:
        (server.folder / "mvtec").write_bytes(content)
        monkeypatch.setattr(download, "MVTEC_URL", f"{server.url}/mvtec")
        monkeypatch.setattr(
            download, "MVTEC_CHECKSUM", f"sha256:{hashlib.sha256(content).hexdigest()}"
        )
        return run("mvtec")

    return fetch


def test_mvtec(mvtec: Callable, server: Server) -> None:
    content = mvtec_archive()
    Path("data/.mvtec.extracting/cable").mkdir(parents=True)  # by a run that was killed
    result = mvtec(content)
    assert result.status == 0
    assert "CC BY-NC-SA 4.0" in result.out
    assert f"sha256:{hashlib.sha256(content).hexdigest()} as published" in result.out
    assert "30 samples to train on, 30 to test on" in result.out
    assert sorted(os.listdir("data")) == ["mvtec", ARCHIVE.name]
    assert ARCHIVE.read_bytes() == content
    assert sorted(os.listdir("data/mvtec")) == sorted(CATEGORIES)
    samples = list_samples(LAYOUTS["MVTec"], Path("data/mvtec/zipper"))
    assert [sample.key for sample in samples if sample.mask] == ["crack/000.png"]
    assert os.access("data/mvtec/zipper/train/good/000.png", os.W_OK)

    ARCHIVE.unlink()
    assert "data/mvtec exists already: 30 samples" in mvtec(content).out
    assert not ARCHIVE.exists()
    assert server.asked == ["/mvtec"]


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("data", "--root data"),
        ("data/mvtec/cable/train/good/001.png", "data/mvtec: exists, but is not whole"),
        (str(ARCHIVE), f"{ARCHIVE}: is not the published archive; move it away"),
    ],
)
def test_what_is_in_the_way_stays(mvtec: Callable, server: Server, place: str, words: str) -> None:
    Path(place).parent.mkdir(parents=True, exist_ok=True)
    Path(place).write_bytes(b"mine")
    assert_refused(mvtec(mvtec_archive()), words)
    assert tree(Path()) == {place: b"mine"}
    assert server.asked == []


def test_an_archive_fetched_by_hand_is_used(mvtec: Callable, server: Server) -> None:
    ARCHIVE.parent.mkdir()
    ARCHIVE.write_bytes(mvtec_archive())
    assert mvtec(mvtec_archive()).status == 0
    assert server.asked == []


def test_a_mirror_with_something_else(run: Callable, server: Server) -> None:
    (server.folder / "x").write_bytes(b"<html>This share has expired</html>")
    result = run("mvtec", "--url", f"{server.url}/x")
    assert_refused(result, "does not match", MVTEC_PAGE, str(ARCHIVE))
    assert tree(Path()) == {"data": b""}


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:{port}/gone", "404 Client Error"),
        ("http://127.0.0.1:1/", "Connection refused"),
        ("nonsense", "No scheme supplied"),
    ],
)
def test_an_address_with_nothing(run: Callable, server: Server, url: str, reason: str) -> None:
    url = url.format(port=server.server_port)
    result = run("mvtec", "--url", url)
    assert_refused(result, f"error: {url}: {ARCHIVE.name} cannot be downloaded (", reason)


def zipped(*names: str) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name in names:
            file.writestr(name, b"PIXELS")
    return archive.getvalue()


PARTS = [(quality, i) for quality in ("good_ones", "bad_ones") for i in range(4)]
ROADS = [f"{p}/{kind}_files/{i}.png" for p, i in PARTS for kind in ("height", "intensity")]
PANORAMA = [f"{part}/{i}.jpg" for part, i in PARTS]


@pytest.fixture
def roads(run: Callable, server: Server) -> Callable[..., Finished]:
    """Run the command for roads where the record lists these archives."""

    def fetch(**archives: bytes) -> Finished:
        files = []
        for name, content in archives.items():
            (server.folder / name).write_bytes(content)
            checksum = f"md5:{hashlib.md5(content).hexdigest()}"
            links = {"self": f"{server.url}/{name}"}
            files.append({"key": f"{name}.zip", "checksum": checksum, "links": links})
        (server.folder / "record").write_text(json.dumps({"files": files}))
        return run("roads")

    return fetch


@pytest.mark.parametrize("tops", [("", ""), ("roadimages/", "y/z/")])
def test_roads(roads: Callable, server: Server, tops: tuple[str, str]) -> None:
    archives = {
        "roadimages": zipped(*(tops[0] + name for name in ROADS)),
        "panorama_images": zipped(
            *(f"__MACOSX/{tops[1]}{name}.bin" for name in PANORAMA),
            *(tops[1] + name for name in PANORAMA),
        ),
    }
    result = roads(**archives)
    assert result.status == 0
    assert f"https://doi.org/{ROADS_DOI}" in result.out
    assert "data/roadimages: 2 samples to train on, 6 to test on" in result.out
    assert "data/panorama: 2 samples to train on, 6 to test on" in result.out
    assert tree(Path("data/panorama")).keys() >= set(PANORAMA)
    server.asked.clear()
    assert roads(**archives).out.count("exists already") == 2
    assert server.asked == []


@pytest.mark.parametrize("record", [b"", b'{"status": 404}', b'{"files": []}'])
def test_something_else_than_a_record(run: Callable, server: Server, record: bytes) -> None:
    (server.folder / "record").write_bytes(record)
    assert_refused(run("roads"), "roadimages.zip cannot be downloaded", ROADS_DOI)


def test_a_mirror_is_for_mvtec_only(run: Callable) -> None:
    assert_refused(run("roads", "--url", "x"), "--url is for mvtec")
