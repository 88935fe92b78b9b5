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
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, Finished

from datasets import download
from datasets.download import CATEGORIES, MVTEC_PAGE, ROADS_PAGE, main
from datasets.layouts import LAYOUTS
from datasets.samples import list_samples

ARCHIVE = Path("data/mvtec_anomaly_detection.tar.xz")


def checksum(content: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


@dataclass
class Server:
    """Serves files from memory.

    Attributes:
        files: content or, for redirections, another path, by path.
        requests: what was asked for.
        statuses: what to answer to the next requests instead of a file; 0 for the file.
        cuts: how many bytes to send of the next answers before the connection ends.
        content_type: of all answers.
        release: while it is not set, a cut connection is held instead.
    """

    files: dict[str, bytes | str] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    content_type: str = "application/octet-stream"
    release: threading.Event = field(default_factory=threading.Event)
    url: str = ""


def handler_for(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.requests.append(self.path)
            status = server.statuses.pop(0) if server.statuses else 0
            content = server.files.get(self.path, 404)
            if isinstance(content, str):
                self.answer(302, b"moved", Location=content)
            elif status or isinstance(content, int):
                self.answer(status or 404, b"no such thing")
            else:
                self.answer(200, content)

        def answer(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            is_page = status == 302
            headers["Content-Type"] = "text/html" if is_page else server.content_type
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            cut = server.cuts.pop(0) if server.cuts and status == 200 else len(body)
            self.wfile.write(body[:cut])
            if cut < len(body):
                server.release.wait(timeout=30)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    state = Server()
    state.release.set()
    with ThreadingHTTPServer(("127.0.0.1", 0), handler_for(state)) as http:
        http.daemon_threads = True
        state.url = f"http://127.0.0.1:{http.server_port}"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        state.release.set()
        http.shutdown()
        thread.join()


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Finished]:
    """Run the command in this process and in ``tmp_path``."""
    monkeypatch.chdir(tmp_path)

    def run_here(*args: str | Path) -> Finished:
        capsys.readouterr()
        status = main([str(arg) for arg in args])
        return Finished(status, *capsys.readouterr())

    return run_here


def assert_refused(result: Finished, *mentions: str | Path | int) -> None:
    """The command ended with status 2 and one line of error with everything mentioned."""
    assert result.status == 2
    assert result.err.startswith("datasets.download: error: ")
    assert result.err.count("\n") == 1
    for mention in mentions:
        assert str(mention) in result.err


def tar_xz(files: dict[str, bytes], *more: tarfile.TarInfo) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:xz", preset=0) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.mode, info.size = 0o444, len(content)  # as in the archive of MVTec AD
            tar.addfile(info, io.BytesIO(content))
        for info in more:
            tar.addfile(info)
    return archive.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name, content in files.items():
            file.writestr(name, content)
    return archive.getvalue()


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything in a folder; None for folders."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def mvtec_files() -> dict[str, bytes]:
    """A miniature of MVTec AD: only names count."""
    parts = (
        *("train/good/000.png", "train/good/001.png", "test/good/000.png"),
        *("test/crack/000.png", "ground_truth/crack/000_mask.png"),
    )
    files = {f"{category}/{part}": b"PIXELS" for category in CATEGORIES for part in parts}
    return files | {"license.txt": b"CC BY-NC-SA 4.0"}


@pytest.fixture
def serve_mvtec(server: Server, monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], bytes]:
    """Serve an archive as that of MVTec AD, with the right checksum."""

    def serve(content: bytes) -> bytes:
        server.files["/mvtec"] = content
        monkeypatch.setattr(download, "MVTEC_URL", f"{server.url}/mvtec")
        monkeypatch.setattr(download, "MVTEC_CHECKSUM", checksum(content))
        return content

    return serve


@pytest.fixture
def mvtec(run: Callable[..., Finished]) -> Callable[[], Finished]:
    return lambda: run("mvtec", "--root", "data")


def test_mvtec(run: Callable, serve_mvtec: Callable, server: Server, tmp_path: Path) -> None:
    content = serve_mvtec(tar_xz(mvtec_files()))
    result = run("mvtec")
    assert (result.status, result.err) == (0, "")
    assert "CC BY-NC-SA 4.0" in result.out
    assert f"{checksum(content)} as published" in result.out
    assert "30 samples to train on, 30 to test on" in result.out
    root = tmp_path / "datasets"
    assert sorted(path.name for path in root.iterdir()) == ["mvtec", ARCHIVE.name]
    assert (root / ARCHIVE.name).read_bytes() == content
    names = sorted(path.name for path in (root / "mvtec").iterdir())
    assert names == sorted([*CATEGORIES, "license.txt"])
    samples = list_samples(LAYOUTS["MVTec"], root / "mvtec/zipper")
    assert [sample.key for sample in samples if sample.mask] == ["crack/000.png"]
    assert os.access(root / "mvtec/zipper/train/good/000.png", os.W_OK)

    (root / ARCHIVE.name).unlink()
    assert "datasets/mvtec is there already: 30 samples" in run("mvtec").out
    assert not (root / ARCHIVE.name).exists()
    assert server.requests == ["/mvtec"]


def test_what_exists_is_kept_and_named(mvtec: Callable, serve_mvtec: Callable) -> None:
    serve_mvtec(tar_xz(mvtec_files()))
    mine = Path("data/mvtec/cable/train/good/001.png")
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    left = Path("data/mvtec/.extracting-by-a-killed-run/cable/x.png")
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    result = mvtec()
    assert (result.status, result.err) == (0, "")
    assert result.out.count("was there before") == 1
    assert f"'{mine}' was there before and is kept as it was" in result.out
    assert mine.read_bytes() == b"mine"
    assert mine.with_name("000.png").read_bytes() == b"PIXELS"
    assert sorted(os.listdir("data/mvtec")) == sorted([*CATEGORIES, "license.txt"])


def test_an_archive_fetched_by_hand_is_used_or_refused(
    mvtec: Callable, serve_mvtec: Callable, server: Server
) -> None:
    content = serve_mvtec(tar_xz(mvtec_files()))
    ARCHIVE.parent.mkdir()
    ARCHIVE.write_bytes(b"something else")
    assert_refused(mvtec(), ARCHIVE, checksum(b"something else"), "move it away")
    assert tree(Path("data")) == {ARCHIVE.name: b"something else"}
    ARCHIVE.write_bytes(content)
    assert mvtec().status == 0
    assert server.requests == []


@pytest.mark.parametrize("status", [403, 404, 410])
def test_mvtec_is_gone(mvtec: Callable, server: Server, serve_mvtec: Callable, status: int) -> None:
    serve_mvtec(b"")
    server.statuses = [status]
    assert_refused(mvtec(), status, f"the form at {MVTEC_PAGE}", f"save it as {ARCHIVE}")
    assert server.requests == ["/mvtec"]
    assert tree(Path("data")) == {}


def test_mvtec_is_gone_and_a_page_says_so(
    mvtec: Callable, server: Server, serve_mvtec: Callable
) -> None:
    serve_mvtec(b"<html>This share has expired</html>")
    server.content_type = "text/html; charset=utf-8"
    assert_refused(mvtec(), f"{server.url}/mvtec", "web page", f"the form at {MVTEC_PAGE}")
    assert tree(Path("data")) == {}


def test_a_mirror_with_something_else(run: Callable, server: Server) -> None:
    server.files["/x"] = b"something else"
    result = run("mvtec", "--root", "data", "--url", f"{server.url}/x")
    assert_refused(result, checksum(b"something else"), "cf4313b13603bec6", MVTEC_PAGE, "not kept")
    assert server.requests == ["/x"]
    assert tree(Path("data")) == {}


def test_trouble_that_passes(mvtec: Callable, serve_mvtec: Callable, server: Server) -> None:
    server.files["/moved"] = "/mvtec"
    serve_mvtec(tar_xz(mvtec_files()))
    download.MVTEC_URL = f"{server.url}/moved"
    server.statuses, server.cuts = [0, 503], [100]
    result = mvtec()
    assert (result.status, result.err) == (0, "")
    assert server.requests == ["/moved", "/mvtec"] * 3


def test_a_connection_that_is_always_cut(
    mvtec: Callable, serve_mvtec: Callable, server: Server
) -> None:
    serve_mvtec(bytes(9999))
    server.cuts = [1000] * 9
    assert_refused(mvtec(), f"{server.url}/mvtec: cannot be downloaded", "run this again")
    assert len(server.requests) == 3
    assert tree(Path("data")) == {}


def test_nobody_listens(run: Callable) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as closed:
        url = f"http://127.0.0.1:{closed.server_port}/"
    assert_refused(run("mvtec", "--url", url), f"{url}: cannot be downloaded (Connection refused)")


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    "hostile",
    [
        tar_xz({"../escaped": b"x"}),
        tar_xz({}, link("escaped", "../../../escaped")),
        tar_xz({}, link("escaped", "/etc/passwd")),
        tar_xz({}, link("escaped", "../../secret", tarfile.LNKTYPE)),
        tar_xz({}, link("escaped", "", tarfile.FIFOTYPE)),
        tar_xz(mvtec_files())[:-100],
        tar_xz({"cats/a.png": b"A"}),
        b"no archive",
        b"",
    ],
    ids=["out", "link", "absolute link", "hard link", "pipe", "cut", "cats", "none", "empty"],
)
def test_of_a_hostile_or_damaged_archive_nothing_stays(
    mvtec: Callable, serve_mvtec: Callable, tmp_path: Path, hostile: bytes
) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    serve_mvtec(hostile)
    assert_refused(mvtec(), ARCHIVE, "replace it")
    assert tree(tmp_path) == {
        "secret": b"secret", "data": None, str(ARCHIVE): hostile, "data/mvtec": None
    }  # fmt: skip


def test_a_data_set_that_lacks_something(mvtec: Callable, serve_mvtec: Callable) -> None:
    files = mvtec_files()
    del files["pill/test/good/000.png"]
    serve_mvtec(tar_xz(files))
    assert_refused(mvtec(), f"{ARCHIVE} is extracted, but", "pill", "no normal images to test")


def road_files(top: str = "") -> dict[str, bytes]:
    return {
        f"{top}{quality}/{kind}_files/{index}.png": b"PIXELS"
        for quality in ("good_ones", "bad_ones")
        for kind in ("height", "intensity")
        for index in range(4)
    }


def panorama_files(top: str = "") -> dict[str, bytes]:
    names = [f"{quality}/{i}.jpg" for quality in ("good_ones", "bad_ones") for i in range(5)]
    return {f"{top}{name}": b"PIXELS" for name in names}


@pytest.fixture
def serve_roads(server: Server) -> Callable[..., list[dict[str, Any]]]:
    """Serve both archives and their record; return what it lists."""

    def serve(roads: dict[str, bytes], panorama: dict[str, bytes]) -> list[dict[str, Any]]:
        files = []
        for key, content in (
            ("roadimages.zip", zipped(roads)),
            ("panorama_images.zip", zipped(panorama)),
        ):
            address = f"/{key}/content"
            server.files[address] = content
            links = {"self": server.url + address}
            files.append({"key": key, "checksum": checksum(content, "md5"), "links": links})
        server.files["/record"] = json.dumps({"files": files}).encode()
        return files

    return serve


@pytest.fixture
def roads(run: Callable, server: Server) -> Callable[[], Finished]:
    return lambda: run("roads", "--root", "data", "--url", f"{server.url}/record")


@pytest.mark.parametrize("tops", [("", ""), ("roadimages/", "panorama_images/"), ("x/", "y/z/")])
def test_roads(roads: Callable, serve_roads: Callable, server: Server, tops: tuple) -> None:
    litter = {f"__MACOSX/{name}": b"litter" for name in panorama_files()}
    record = serve_roads(road_files(tops[0]), litter | panorama_files(tops[1]))
    result = roads()
    assert (result.status, result.err) == (0, "")
    assert ROADS_PAGE in result.out
    for file in record:
        assert f"{file['checksum']} as published" in result.out
    assert "data/roadimages: 2 samples to train on, 6 to test on" in result.out
    assert "data/panorama: 3 samples to train on, 7 to test on" in result.out
    assert tree(Path("data/panorama")) == {
        "good_ones": None, "bad_ones": None, **panorama_files()
    }  # fmt: skip

    again = roads()
    assert again.out.count("is there already") == 2
    assert len(server.requests) == 3


def test_a_zip_file_stays_in_its_folder(roads: Callable, serve_roads: Callable) -> None:
    hostile = {"../escaped": b"x", "../../../escaped": b"x", "/escaped": b"x"}
    serve_roads(road_files() | hostile, panorama_files())
    assert roads().status == 0
    assert [name for name in tree(Path()) if "escaped" in name] == []


@pytest.mark.parametrize(
    "record",
    [
        *(b"", b"\xff\xfe", b"[]", b"{}", b'{"files": null}', b'{"files": [1]}'),
        b'{"files": [{"key": "roadimages.zip"}]}',
        b'{"files": [{"key": "a", "checksum": null, "links": {"self": "http://x"}}]}',
        b'{"files": [{"key": "a", "checksum": "crc:12", "links": {"self": "http://x"}}]}',
    ],
)
def test_something_else_than_a_record(roads: Callable, server: Server, record: bytes) -> None:
    server.files["/record"] = record
    assert_refused(roads(), f"{server.url}/record: not a Zenodo record", ROADS_PAGE)


def test_a_record_without_an_archive(
    roads: Callable, serve_roads: Callable, server: Server
) -> None:
    files = serve_roads(road_files(), panorama_files())
    server.files["/record"] = json.dumps({"files": files[:1]}).encode()
    assert_refused(roads(), "lists no panorama_images.zip", ROADS_PAGE)
    assert Path("data/roadimages").is_dir()


@pytest.mark.parametrize(
    ("arguments", "mention"),
    [
        ([], "name"),
        (["cats"], "'cats'"),
        (["roads", "--urls", "x"], "--urls"),
        (["roads", "--root", ""], "--root"),
        (["roads", "--url", ""], "not an address"),
        (["mvtec", "--url", "nonsense"], "nonsense: not an address"),
        (["mvtec", "--url", "file:///etc/passwd"], "not an address of http"),
        (["mvtec", "--url", "http://127.0.0.1:port/"], "not an address"),
        (["mvtec", "--url", "http://[::1"], "not an address"),
    ],
)
def test_wrong_command_line(run: Callable, arguments: list[str], mention: str) -> None:
    assert_refused(run(*arguments), mention)


@pytest.mark.parametrize("place", ["data", "data/mvtec", str(ARCHIVE)])
def test_something_in_the_way(mvtec: Callable, serve_mvtec: Callable, place: str) -> None:
    serve_mvtec(tar_xz(mvtec_files()))
    Path(place).parent.mkdir(exist_ok=True)
    if place == str(ARCHIVE):
        ARCHIVE.mkdir()
    else:
        Path(place).write_bytes(b"mine")
    assert_refused(mvtec(), place)
    assert place == str(ARCHIVE) or Path(place).read_bytes() == b"mine"


def test_progress_is_shown_on_a_terminal(
    mvtec: Callable, serve_mvtec: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve_mvtec(tar_xz(mvtec_files()))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert "download: 100%" in mvtec().err


def test_ctrl_c_and_kill_leave_nothing_half_done(
    mvtec: Callable, serve_mvtec: Callable, server: Server, tmp_path: Path
) -> None:
    content = serve_mvtec(tar_xz(mvtec_files()))
    data = tmp_path / "data"
    # The handler is set because a shell that starts processes in the background ignores SIGINT.
    code = (
        "import signal, sys; from datasets.download import main; "
        "signal.signal(signal.SIGINT, signal.default_int_handler); sys.exit(main())"
    )
    server.release.clear()
    for number, left in ((signal.SIGKILL, 2), (signal.SIGINT, 0)):
        server.cuts = [len(content) // 2]
        with subprocess.Popen(
            [sys.executable, "-c", code, "mvtec", "--root", "data", "--url", f"{server.url}/mvtec"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            deadline = time.monotonic() + 60
            while server.cuts and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(0.3)
            process.send_signal(number)
            _, err = process.communicate(timeout=60)
        assert len(tree(data)) == left
    assert process.returncode == 130
    assert err == "datasets.download: interrupted; run it again\n"
    assert mvtec().status == 0


def test_the_command_runs_as_a_module_and_without_torch(
    run_python: Callable, tmp_path: Path
) -> None:
    refused = run_python("-m", "datasets.download", "mvtec", "--url", "nonsense", cwd=tmp_path)
    assert_refused(Finished(refused.returncode, refused.stdout, refused.stderr), "nonsense")
    code = (
        "import sys, datasets.download; sys.exit('torch' in sys.modules or 'pooch' in sys.modules)"
    )
    assert run_python("-c", code, cwd=tmp_path).returncode == 0
