"""The download command, against a local server that can misbehave."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from conftest import REPOSITORY, Finished

from datasets import download
from datasets.download import CATEGORIES, MVTEC_PAGE, ROADS_DOI, main
from datasets.layouts import LAYOUTS
from datasets.samples import list_samples

ARCHIVE = Path("data/mvtec_anomaly_detection.tar.xz")
RECORD = "https://zenodo.org/api/records/7681876"


class Server(ThreadingHTTPServer):
    """Serves files from memory.

    Attributes:
        files: their content by path; there is no other.
        asked: the paths that were asked for.
        cuts: how many bytes of the next answers are sent before the connection ends.
        held, release: a cut connection sets the first and waits for the other.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.cuts: list[int] = []
        self.held, self.release = threading.Event(), threading.Event()
        self.release.set()
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        content = self.server.files.get(self.path, b"")
        self.send_response(200 if self.path in self.server.files else 404)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        cut = self.server.cuts.pop(0) if self.server.cuts else len(content)
        self.wfile.write(content[:cut])
        if cut < len(content):
            self.server.held.set()
            self.server.release.wait(timeout=30)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The server, also in the place of Zenodo."""
    get = requests.get

    def redirected(url: str, **how: Any) -> Any:
        if url == f"https://doi.org/{ROADS_DOI}":
            return SimpleNamespace(url="https://zenodo.org/records/7681876", status_code=200)
        return get(url.replace(RECORD, f"{server.url}/record"), **how)

    monkeypatch.setattr(requests, "get", redirected)
    monkeypatch.setattr("pooch.core.time", SimpleNamespace(sleep=lambda seconds: None))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.release.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def run(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., Finished]:
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
def mvtec(
    run: Callable, server: Server, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Finished]:
    """Run the command for MVTec AD where its archive is this one."""

    def fetch(content: bytes) -> Finished:
        server.files["/mvtec"] = content
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
    server.files["/x"] = b"<html>This share has expired</html>"
    result = run("mvtec", "--url", f"{server.url}/x")
    assert_refused(result, "does not match", "cf4313b13603bec6", MVTEC_PAGE, str(ARCHIVE))
    assert tree(Path()) == {"data": b""}


def test_a_connection_that_is_cut(mvtec: Callable, server: Server) -> None:
    server.cuts = [0, 100, 100]
    result = mvtec(mvtec_archive())
    assert_refused(result, f"{server.url}/mvtec: ", "check the connection", MVTEC_PAGE)
    assert tree(Path()) == {"data": b""}
    server.cuts = [0, 100]
    assert mvtec(mvtec_archive()).status == 0
    assert server.asked == ["/mvtec"] * 6


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
            server.files[f"/{name}"] = content
            checksum = f"md5:{hashlib.md5(content).hexdigest()}"
            links = {"self": f"{server.url}/{name}"}
            files.append({"key": f"{name}.zip", "checksum": checksum, "links": links})
        server.files["/record"] = json.dumps({"files": files}).encode()
        return run("roads")

    return fetch


@pytest.mark.parametrize("tops", [("", ""), ("roadimages/", "y/z/")])
def test_roads(roads: Callable, server: Server, tops: tuple[str, str]) -> None:
    archives = {
        "roadimages": zipped(*(tops[0] + name for name in ROADS)),
        "panorama_images": zipped(
            *(f"__MACOSX/{name}" for name in PANORAMA), *(tops[1] + name for name in PANORAMA)
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
    server.files["/record"] = record
    assert_refused(run("roads"), "roadimages.zip cannot be downloaded", ROADS_DOI)


def test_a_mirror_is_for_mvtec_only(run: Callable) -> None:
    assert_refused(run("roads", "--url", "x"), "--url is for mvtec")


def test_ctrl_c_leaves_nothing(server: Server, tmp_path: Path) -> None:
    server.files["/x"] = bytes(1000)
    server.cuts = [500]
    server.release.clear()
    words = ("-m", "datasets.download", "mvtec", "--root", "data", "--url", f"{server.url}/x")
    with subprocess.Popen(
        [sys.executable, *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # Because a shell that starts processes in the background ignores SIGINT.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert server.held.wait(60)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.endswith("datasets.download: interrupted; run it again\n")
    assert tree(tmp_path) == {"data": b""}
