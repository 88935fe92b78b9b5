"""The download command, against a local server that can misbehave."""

import errno
import hashlib
import io
import json
import lzma
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import REPOSITORY, Finished

from crn.errors import UserError
from datasets import LAYOUTS, download
from datasets.archives import extract
from datasets.download import CATEGORIES, MVTEC_PAGE, ROADS_PAGE, Source, fetch, main
from datasets.samples import list_samples

CONTENT = np.random.default_rng(0).bytes(300_000)
FORMATS = ["tar.xz", "zip"]


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def md5(content: bytes) -> str:
    return f"md5:{hashlib.md5(content).hexdigest()}"


# --- a server ---


@dataclass
class Server:
    """Serves files from memory.

    Attributes:
        files: content or, for redirections, another path, by path.
        requests: what was asked for: path and Range header.
        statuses: what to answer to the next requests instead of a file; 0 for the file.
        cuts: how many bytes to send of the next answers before the connection ends.
        knows_ranges: whether the Range header counts.
        shift: added to where a range starts.
        is_chunked: whether answers come without their length.
        content_type: of all answers.
        release: while it is not set, a cut connection is held instead.
    """

    files: dict[str, bytes | str] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    knows_ranges: bool = True
    shift: int = 0
    is_chunked: bool = False
    content_type: str = "application/octet-stream"
    release: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    @property
    def ranges(self) -> list[str | None]:
        return [requested for _, requested in self.requests]


def handler_for(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            requested = self.headers["Range"]
            server.requests.append((self.path, requested))
            status = server.statuses.pop(0) if server.statuses else 0
            content = server.files.get(self.path)
            if status or content is None:
                self.answer(status or 404, b"no such thing")
            elif isinstance(content, str):
                self.answer(302, b"", Location=content)
            elif requested is None or not server.knows_ranges:
                self.answer(200, content)
            else:
                start = int(requested.removeprefix("bytes=").removesuffix("-")) + server.shift
                size = len(content)
                if start >= size:
                    self.answer(416, b"", **{"Content-Range": f"bytes */{size}"})
                else:
                    span = f"bytes {start}-{size - 1}/{size}"
                    self.answer(206, content[start:], **{"Content-Range": span})

        def answer(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Type": server.content_type}.items():
                self.send_header(name, value)
            sent = body[: server.cuts.pop(0)] if server.cuts else body
            if server.is_chunked:
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                self.wfile.write(b"%x\r\n%s\r\n" % (len(sent), sent) if sent else b"")
                self.wfile.write(b"0\r\n\r\n" if sent is body else b"")
            else:
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(sent)
            if len(sent) < len(body):
                server.release.wait(timeout=30)
            self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server with CONTENT as /file.bin."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    state = Server(files={"/file.bin": CONTENT})
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
def source(server: Server) -> Source:
    """CONTENT, with its true size and checksum."""
    return Source(f"{server.url}/file.bin", "the shelf", len(CONTENT), sha256(CONTENT))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where to download to."""
    return tmp_path / "file.bin"


@pytest.fixture
def part(path: Path) -> Path:
    """What a download is called until it is verified."""
    return path.with_name("file.bin.part")


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


def assert_refused(result: Finished, *mentions: str | Path) -> None:
    """The command ended with status 2 and one line of error with everything mentioned."""
    assert result.status == 2
    assert result.err.startswith("datasets.download: error: ")
    assert result.err.count("\n") == 1
    for mention in mentions:
        assert str(mention) in result.err


class FullDisk:
    """A file on a disk with room for some bytes more."""

    def __init__(self, file: Any, room: int) -> None:
        self.file, self.room = file, room

    def __enter__(self) -> "FullDisk":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, content: bytes) -> int:
        written = self.file.write(content[: self.room])
        self.room -= written
        if written < len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written


def fill_disk(monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """Let every file that is opened for writing take only so many bytes."""
    original = Path.open

    def open_on_full_disk(self: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        file = original(self, mode, *args, **kwargs)
        return file if mode.startswith("r") else FullDisk(file, room)

    monkeypatch.setattr(Path, "open", open_on_full_disk)


# --- one file ---


def test_whole_download(server: Server, source: Source, path: Path, part: Path) -> None:
    assert fetch(source, path) == sha256(CONTENT)
    assert path.read_bytes() == CONTENT
    assert not part.exists()
    assert server.requests == [("/file.bin", None)]


def test_md5_of_a_download(source: Source, path: Path) -> None:
    assert fetch(replace(source, checksum=md5(CONTENT)), path) == md5(CONTENT)


@pytest.mark.parametrize("is_chunked", [False, True])
def test_cut_download_continues_by_itself(
    server: Server, source: Source, path: Path, is_chunked: bool
) -> None:
    server.is_chunked = is_chunked
    server.cuts = [100_000, 50_000]
    fetch(source, path)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100000-", "bytes=150000-"]


def test_cut_download_continues_in_another_run(
    server: Server, source: Source, path: Path, part: Path
) -> None:
    server.cuts = [100_000]
    server.statuses = [0, 503]
    with pytest.raises(UserError, match=r"503.*100,000 bytes are kept in .*file\.bin\.part"):
        fetch(source, path)
    assert part.read_bytes() == CONTENT[:100_000]
    assert not path.exists()
    fetch(source, path)
    assert path.read_bytes() == CONTENT
    assert not part.exists()
    assert server.ranges == [None, "bytes=100000-", "bytes=100000-"]


def test_server_without_ranges_sends_all(
    server: Server, source: Source, path: Path, part: Path
) -> None:
    server.knows_ranges = False
    part.write_bytes(b"?" * 1000)
    fetch(source, path)
    assert path.read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000-"]


def test_download_that_never_gets_further_ends(
    server: Server, source: Source, path: Path, part: Path
) -> None:
    server.knows_ranges = False
    server.cuts = [1000] * 10
    with pytest.raises(UserError, match="cut off after 1,000 of 300,000 bytes"):
        fetch(source, path)
    assert len(server.requests) == 2
    assert part.read_bytes() == CONTENT[:1000]


def test_range_is_asked_for_where_a_redirection_leads(
    server: Server, source: Source, path: Path, part: Path
) -> None:
    server.files["/moved"] = "/file.bin"
    part.write_bytes(CONTENT[:1000])
    fetch(replace(source, url=f"{server.url}/moved"), path)
    assert path.read_bytes() == CONTENT
    assert server.requests == [("/moved", "bytes=1000-"), ("/file.bin", "bytes=1000-")]


def test_other_range_than_asked_for(server: Server, source: Source, path: Path, part: Path) -> None:
    server.shift = 10
    part.write_bytes(CONTENT[:1000])
    with pytest.raises(UserError, match="206 bytes 1010-299999/300000"):
        fetch(source, path)
    assert part.read_bytes() == CONTENT[:1000]


def test_whole_partial_file_of_known_size_needs_no_server(
    server: Server, source: Source, path: Path, part: Path
) -> None:
    part.write_bytes(CONTENT)
    fetch(source, path)
    assert path.read_bytes() == CONTENT
    assert server.requests == []


def test_whole_partial_file_of_unknown_size(
    server: Server, source: Source, path: Path, part: Path
) -> None:
    part.write_bytes(CONTENT)
    fetch(replace(source, size=None), path)
    assert path.read_bytes() == CONTENT
    assert server.ranges == ["bytes=300000-"]


@pytest.mark.parametrize("size", [None, len(CONTENT)])
def test_too_long_partial_file(
    server: Server, source: Source, path: Path, part: Path, size: int | None
) -> None:
    part.write_bytes(CONTENT + b"?")
    fetch(replace(source, size=size), path)
    assert path.read_bytes() == CONTENT
    assert server.ranges == ["bytes=300001-", None]


@pytest.mark.parametrize("checksum_of", [sha256, md5])
def test_wrong_checksum(source: Source, path: Path, part: Path, checksum_of: Callable) -> None:
    other = checksum_of(b"something else")
    with pytest.raises(UserError) as refusal:
        fetch(replace(source, checksum=other), path)
    for mention in (source.url, checksum_of(CONTENT), other, "deleted", "the shelf"):
        assert mention in str(refusal.value)
    assert not path.exists()
    assert not part.exists()


def test_wrong_checksum_of_a_continued_download(source: Source, path: Path, part: Path) -> None:
    part.write_bytes(b"?" * 1000)
    with pytest.raises(UserError, match="checksum"):
        fetch(source, path)
    assert not path.exists()
    assert not part.exists()
    fetch(source, path)
    assert path.read_bytes() == CONTENT


def test_wrong_size_is_not_downloaded(
    server: Server, source: Source, path: Path, part: Path
) -> None:
    with pytest.raises(UserError, match="has 300,000 bytes instead of 299,999; not downloaded"):
        fetch(replace(source, size=299_999), path)
    assert not path.exists()
    assert not part.exists()


def test_wrong_size_that_the_server_does_not_tell(
    server: Server, source: Source, path: Path, part: Path
) -> None:
    server.is_chunked = True
    with pytest.raises(UserError, match=r"has 300,000 bytes instead of 299,999.*deleted"):
        fetch(replace(source, size=299_999), path)
    assert not path.exists()
    assert not part.exists()


def test_without_a_checksum_no_partial_file_is_continued(
    server: Server, source: Source, path: Path, part: Path
) -> None:
    part.write_bytes(b"?" * 1000)
    assert fetch(replace(source, checksum=None), path) == sha256(CONTENT)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None]


def test_existing_file_is_verified_and_kept(server: Server, source: Source, path: Path) -> None:
    path.write_bytes(CONTENT)
    assert fetch(source, path) == sha256(CONTENT)
    assert server.requests == []


@pytest.mark.parametrize("content", [b"", b"something else", CONTENT[:-1] + b"?"])
def test_existing_file_that_is_another_one(
    server: Server, source: Source, path: Path, content: bytes
) -> None:
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"file\.bin: has .* instead of .*; move it away"):
        fetch(source, path)
    assert path.read_bytes() == content
    assert server.requests == []


@pytest.mark.parametrize("status", [429, 500, 503])
def test_trouble_that_passes(
    server: Server, source: Source, path: Path, part: Path, status: int
) -> None:
    part.write_bytes(CONTENT[:1000])
    server.statuses = [status]
    with pytest.raises(UserError, match=rf"{status}.*1,000 bytes are kept.*run this again"):
        fetch(source, path)
    assert part.read_bytes() == CONTENT[:1000]


def test_nobody_listens(source: Source, path: Path, part: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as closed:
        url = f"http://127.0.0.1:{closed.server_port}/"
    with pytest.raises(UserError, match=r"cannot be reached \(.*refused"):
        fetch(replace(source, url=url), path)
    assert not part.exists()


def test_disk_full_during_a_download(
    server: Server, source: Source, path: Path, part: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as full:
        fill_disk(full, room=1000)
        with pytest.raises(UserError, match=r"file\.bin\.part: .*No space left"):
            fetch(source, path)
    assert part.read_bytes() == CONTENT[:1000]
    assert not path.exists()
    fetch(source, path)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1000-"]


def test_folder_in_the_place_of_the_file(source: Source, path: Path) -> None:
    path.mkdir()
    with pytest.raises(UserError, match=r"file\.bin: cannot be read"):
        fetch(source, path)


# --- archives ---


@dataclass(frozen=True)
class Entry:
    """Something to put into an archive: a file, or what `kind` says."""

    name: str
    kind: str = "file"
    link: str = ""


def pack(archive: Path, entries: Mapping[str, bytes] | list[Entry]) -> bytes:
    """Write an archive in the format that its name says; return its bytes."""
    if isinstance(entries, Mapping):
        contents = [(Entry(name), content) for name, content in entries.items()]
    else:
        contents = [(entry, b"hostile") for entry in entries]
    add_all = pack_zip if archive.suffix == ".zip" else pack_tar
    add_all(archive, contents)
    return archive.read_bytes()


def pack_tar(archive: Path, contents: list[tuple[Entry, bytes]]) -> None:
    kinds = {
        "file": tarfile.REGTYPE,
        "folder": tarfile.DIRTYPE,
        "symlink": tarfile.SYMTYPE,
        "hardlink": tarfile.LNKTYPE,
        "device": tarfile.CHRTYPE,
        "pipe": tarfile.FIFOTYPE,
    }
    with tarfile.open(archive, "w:xz", preset=0) as tar:
        for entry, content in contents:
            info = tarfile.TarInfo(entry.name)
            info.type, info.linkname = kinds[entry.kind], entry.link
            info.mode = 0o444  # as in the archive of MVTec AD
            info.size = len(content) if entry.kind == "file" else 0
            info.devmajor, info.devminor = 1, 3
            tar.addfile(info, io.BytesIO(content))


def pack_zip(archive: Path, contents: list[tuple[Entry, bytes]]) -> None:
    kinds = {"file": 0o100644, "symlink": 0o120777, "device": 0o020666, "pipe": 0o010666}
    with zipfile.ZipFile(archive, "w") as file:
        for entry, content in contents:
            info = zipfile.ZipInfo()
            info.filename = entry.name + "/" * (entry.kind == "folder")
            info.create_system = 3
            info.external_attr = kinds.get(entry.kind, 0o040755) << 16
            file.writestr(info, entry.link.encode() or content)


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything in a folder; None for folders and links."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        if path.is_file() and not path.is_symlink()
        else None
        for path in folder.rglob("*")
    }


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(
    "entries",
    [
        [Entry("../escaped")],
        [Entry("good_ones/../../escaped")],
        [Entry("..\\escaped")],
        [Entry("TMP/escaped")],
        [Entry("//TMP/escaped")],
        [Entry("C:\\escaped")],
        [Entry("../escaped", "folder")],
        [Entry("escaped", "symlink", "../../escaped")],
        [Entry("out", "symlink", ".."), Entry("out/escaped")],
        [Entry("out", "symlink", "TMP"), Entry("out/escaped")],
        [Entry("inside", "symlink", "good_ones")],
        [Entry("escaped", "device")],
        [Entry("escaped", "pipe")],
        [Entry("good_ones/a.png")],
        [Entry("good_ones")],
        [Entry("good_ones/a.png/escaped")],
        [Entry("good_ones/a.png", "folder")],
    ],
    ids=lambda entries: " ".join(f"{entry.kind}:{entry.name}" for entry in entries),
)
def test_hostile_archive(tmp_path: Path, suffix: str, entries: list[Entry]) -> None:
    """A harmless file comes first; nothing of it stays either."""
    here = str(tmp_path)
    entries = [
        replace(entry, name=entry.name.replace("TMP", here), link=entry.link.replace("TMP", here))
        for entry in entries
    ]
    archive = tmp_path / f"hostile.{suffix}"
    pack(archive, [Entry("good_ones/a.png"), *entries])
    before = tree(tmp_path)
    with pytest.raises(UserError) as refusal:
        extract(archive, tmp_path / "inner" / "target", ["good_ones"])
    assert str(refusal.value).startswith(f"{archive}: holds") or "leads out of" in str(
        refusal.value
    )
    assert repr(entries[0].name)[1:-1] in str(refusal.value)
    assert tree(tmp_path) == before | {"inner": None}


@pytest.mark.parametrize("link", ["good_ones/a.png", "../../secret", "/etc/passwd"])
def test_hard_link_in_an_archive(tmp_path: Path, link: str) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    archive = tmp_path / "hostile.tar.xz"
    pack(archive, [Entry("good_ones/a.png"), Entry("good_ones/b.png", "hardlink", link)])
    with pytest.raises(UserError, match=r"holds a link, 'good_ones/b\.png'"):
        extract(archive, tmp_path / "target", ["good_ones"])
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("suffix", FORMATS)
def test_what_exists_is_kept_and_named(tmp_path: Path, suffix: str) -> None:
    archive = tmp_path / f"data.{suffix}"
    names = [*(f"good_ones/{letter}.png" for letter in "abcd"), "bad_ones", "new/e.png"]
    pack(archive, dict.fromkeys(names, b"new"))
    outside = tmp_path / "outside.png"
    outside.write_bytes(b"old")
    target = tmp_path / "target"
    (target / "good_ones").mkdir(parents=True)
    (target / "good_ones/a.png").write_bytes(b"old")
    (target / "good_ones/b.png").symlink_to(outside)
    (target / "good_ones/c.png").symlink_to(tmp_path / "nowhere")
    (target / "bad_ones").mkdir()
    kept = extract(archive, target, ["good_ones"])
    existing = ("bad_ones", "good_ones/a.png", "good_ones/b.png", "good_ones/c.png")
    assert kept == [target / name for name in existing]
    assert outside.read_bytes() == b"old"
    assert tree(target) == {
        "good_ones": None,
        "good_ones/a.png": b"old",
        "good_ones/b.png": None,
        "good_ones/c.png": None,
        "good_ones/d.png": b"new",
        "bad_ones": None,
        "new": None,
        "new/e.png": b"new",
    }


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("top", ["", "./", "roads v2/", "deep/er/"])
def test_top_folders_are_left_out(tmp_path: Path, suffix: str, top: str) -> None:
    archive = tmp_path / f"data.{suffix}"
    litter = {"__MACOSX/good_ones/._a.png": b"litter", "__MACOSX/x/good_ones/._a.png": b"litter"}
    pack(archive, litter | {f"{top}good_ones/a.png": b"A", f"{top}bad_ones/b.png": b"B"})
    assert extract(archive, tmp_path / "target", ["good_ones", "bad_ones"]) == []
    assert tree(tmp_path / "target") == {
        "good_ones": None,
        "good_ones/a.png": b"A",
        "bad_ones": None,
        "bad_ones/b.png": b"B",
    }


def test_extracted_files_can_be_changed_and_removed(tmp_path: Path) -> None:
    archive = tmp_path / "data.tar.xz"
    pack(archive, [Entry("good_ones", "folder"), Entry("good_ones/a.png")])
    extract(archive, tmp_path / "target", ["good_ones"])
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "target/good_ones").stat().st_mode & 0o777 == 0o777 & ~umask
    assert (tmp_path / "target/good_ones/a.png").stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize("suffix", FORMATS)
def test_archive_without_the_data_set(tmp_path: Path, suffix: str) -> None:
    archive = tmp_path / f"data.{suffix}"
    pack(archive, {"cats/a.png": b"A", "good_ones.txt": b"B"})
    with pytest.raises(UserError, match="holds no folder good_ones or bad_ones"):
        extract(archive, tmp_path / "target", ["good_ones", "bad_ones"])
    assert not (tmp_path / "target").exists()


def test_archive_with_several_data_sets(tmp_path: Path) -> None:
    archive = tmp_path / "data.zip"
    pack(archive, {"one/good_ones/a.png": b"A", "two/good_ones/a.png": b"A"})
    with pytest.raises(UserError, match="several data sets, one and two"):
        extract(archive, tmp_path / "target", ["good_ones", "bad_ones"])


def encrypted(content: bytes) -> bytes:
    """A .zip file whose first member claims to be encrypted."""
    changed = bytearray(content)
    changed[6] |= 1
    changed[content.index(b"PK\x01\x02") + 8] |= 1
    return bytes(changed)


def spoiled_header(content: bytes) -> bytes:
    """A .tar.xz file with a second header that is none."""
    return lzma.compress(lzma.decompress(content).replace(b"good_ones/b.png", b"good_ones/?.png"))


@pytest.mark.parametrize(
    ("suffix", "spoil"),
    [
        ("tar.xz", lambda content: content[: len(content) // 2]),
        ("tar.xz", lambda content: content[:-40] + b"?" * 40),
        ("tar.xz", spoiled_header),
        ("tar.xz", lambda _: b"no archive"),
        ("tar.xz", lambda _: b""),
        ("zip", lambda content: content[: len(content) // 2]),
        ("zip", lambda content: content.replace(b"PIXELS", b"pixels")),
        ("zip", encrypted),
        ("zip", lambda _: b"no archive"),
        ("zip", lambda _: b""),
    ],
)
def test_damaged_archive(tmp_path: Path, suffix: str, spoil: Callable[[bytes], bytes]) -> None:
    archive = tmp_path / f"data.{suffix}"
    content = pack(archive, {"good_ones/a.png": b"PIXELS", "good_ones/b.png": CONTENT[:9999]})
    archive.write_bytes(spoil(content))
    with pytest.raises(UserError, match=r"data\.(zip|tar\.xz): damaged \(.+\); replace"):
        extract(archive, tmp_path / "target", ["good_ones"])
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("suffix", FORMATS)
def test_disk_full_during_extraction(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / f"data.{suffix}"
    pack(archive, {"good_ones/a.png": b"A", "good_ones/b.png": CONTENT})
    target = tmp_path / "target"
    target.mkdir()
    (target / "mine.txt").write_bytes(b"mine")
    with monkeypatch.context() as full:
        fill_disk(full, room=1000)
        with pytest.raises(UserError, match=r"cannot be extracted to .*target \(No space left"):
            extract(archive, target, ["good_ones"])
    assert tree(target) == {"mine.txt": b"mine"}


# --- MVTec ---


def mvtec_files() -> dict[str, bytes]:
    """A miniature of MVTec AD: only names count."""
    parts = (
        *("train/good/000.png", "train/good/001.png", "test/good/000.png"),
        *("test/crack/000.png", "ground_truth/crack/000_mask.png"),
    )
    files = {f"{category}/{part}": b"PIXELS" for category in CATEGORIES for part in parts}
    return files | {"license.txt": b"CC BY-NC-SA 4.0"}


@pytest.fixture
def serve_mvtec(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Serve files as the archive of MVTec AD, with the right checksum; return its bytes."""

    def serve(files: Mapping[str, bytes]) -> bytes:
        scratch = tmp_path / "scratch.tar.xz"
        content = pack(scratch, files)
        scratch.unlink()
        server.files["/mvtec"] = content
        monkeypatch.setattr(
            download,
            "MVTEC",
            replace(download.MVTEC, url=f"{server.url}/mvtec", checksum=sha256(content)),
        )
        return content

    return serve


def test_mvtec(run: Callable, serve_mvtec: Callable, server: Server, tmp_path: Path) -> None:
    content = serve_mvtec(mvtec_files())
    result = run("mvtec")
    assert (result.status, result.err) == (0, "")
    assert "CC BY-NC-SA 4.0" in result.out
    assert f"{sha256(content)} (as published)" in result.out
    assert "30 samples to train on, 30 to test on" in result.out
    root = tmp_path / "datasets"
    assert (root / "mvtec_anomaly_detection.tar.xz").read_bytes() == content
    assert sorted(path.name for path in (root / "mvtec").iterdir()) == sorted(
        [*CATEGORIES, "license.txt"]
    )
    samples = list_samples(LAYOUTS["MVTec"], root / "mvtec/zipper")
    assert [sample.key for sample in samples if sample.mask] == ["crack/000.png"]
    assert server.requests == [("/mvtec", None)]


def test_mvtec_is_not_fetched_again(run: Callable, serve_mvtec: Callable, server: Server) -> None:
    serve_mvtec(mvtec_files())
    run("mvtec", "--root", "data")
    Path("data/mvtec_anomaly_detection.tar.xz").unlink()
    before = tree(Path("data"))
    result = run("mvtec", "--root", "data")
    assert (result.status, result.err) == (0, "")
    assert "data/mvtec is there already: 30 samples" in result.out
    assert tree(Path("data")) == before
    assert len(server.requests) == 1


def test_mvtec_is_completed_beside_what_exists(run: Callable, serve_mvtec: Callable) -> None:
    serve_mvtec(mvtec_files())
    mine = Path("data/mvtec/cable/train/good/001.png")
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    result = run("mvtec", "--root", "data")
    assert (result.status, result.err) == (0, "")
    assert [line for line in result.out.splitlines() if "was there before" in line] == [
        f"'{mine}' was there before and is kept as it was"
    ]
    assert mine.read_bytes() == b"mine"


def test_mvtec_archive_that_was_fetched_by_hand(
    run: Callable, serve_mvtec: Callable, server: Server
) -> None:
    content = serve_mvtec(mvtec_files())
    Path("data").mkdir()
    Path("data/mvtec_anomaly_detection.tar.xz").write_bytes(content)
    result = run("mvtec", "--root", "data")
    assert (result.status, result.err) == (0, "")
    assert Path("data/mvtec/wood/ground_truth").is_dir()
    assert server.requests == []


@pytest.mark.parametrize("status", [403, 404, 410])
def test_mvtec_is_gone(
    run: Callable, server: Server, serve_mvtec: Callable, status: int, tmp_path: Path
) -> None:
    serve_mvtec(mvtec_files())
    server.statuses = [status]
    result = run("mvtec")
    archive = "datasets/mvtec_anomaly_detection.tar.xz"
    assert_refused(result, status, f"the form at {MVTEC_PAGE}", f"save it as {archive}")
    assert list((tmp_path / "datasets").iterdir()) == []


def test_mvtec_is_gone_and_a_page_says_so(run: Callable, server: Server, tmp_path: Path) -> None:
    """The partial file is not replaced by the page."""
    server.files["/gone"] = b"<html>This share has expired</html>"
    server.content_type = "text/html; charset=utf-8"
    part = tmp_path / "mvtec_anomaly_detection.tar.xz.part"
    part.write_bytes(b"half")
    server.knows_ranges = False
    result = run("mvtec", "--root", tmp_path, "--url", f"{server.url}/gone")
    assert_refused(result, f"{server.url}/gone", "web page", f"the form at {MVTEC_PAGE}")
    assert part.read_bytes() == b"half"


def test_mirror_with_something_else_than_mvtec(
    run: Callable, server: Server, tmp_path: Path
) -> None:
    result = run("mvtec", "--url", f"{server.url}/file.bin")
    assert_refused(result, sha256(CONTENT), "cf4313b13603bec6", "the form at", MVTEC_PAGE)
    assert list((tmp_path / "datasets").iterdir()) == []


@pytest.mark.parametrize(
    ("lost", "mentions"),
    [
        ("zipper/ground_truth/", ["mvtec: lacks zipper/ground_truth"]),
        ("pill/", ["lacks pill/train/good, pill/test/good, pill/ground_truth"]),
        ("tile/ground_truth/crack/000_mask.png", ["crack/000_mask.png: no such file"]),
        ("w", ["lacks wood/train/good"]),
    ],
)
def test_mvtec_lacks_something(
    run: Callable, serve_mvtec: Callable, lost: str, mentions: list[str]
) -> None:
    files = {name: content for name, content in mvtec_files().items() if not name.startswith(lost)}
    serve_mvtec(files | {"tile/ground_truth/readme.txt": b""})
    assert_refused(run("mvtec"), "mvtec_anomaly_detection.tar.xz is extracted, but", *mentions)


# --- the road data sets ---


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
def serve_roads(server: Server, tmp_path: Path) -> Callable:
    """Serve both archives and their record; return the record, which may be changed."""

    def serve(roads: Mapping[str, bytes], panorama: Mapping[str, bytes]) -> dict[str, Any]:
        record: dict[str, Any] = {"id": 7681876, "files": []}
        for key, files in (("roadimages.zip", roads), ("panorama_images.zip", panorama)):
            scratch = tmp_path / "scratch.zip"
            content = pack(scratch, files)
            scratch.unlink()
            server.files[f"/{key}/content"] = content
            record["files"].append(
                {
                    "key": key,
                    "size": len(content),
                    "checksum": md5(content),
                    "links": {"self": f"{server.url}/{key}/content"},
                }
            )
        server.files["/record"] = json.dumps(record).encode()
        return record

    return serve


@pytest.fixture
def run_roads(run: Callable, server: Server) -> Callable[[], Finished]:
    """Run ``roads`` with the server's record, in the folder ``data``."""
    return lambda: run("roads", "--root", "data", "--url", f"{server.url}/record")


@pytest.mark.parametrize(
    ("roads_top", "panorama_top"), [("", ""), ("roadimages/", "panorama_images/"), ("x/", "y/z/")]
)
def test_roads(
    run_roads: Callable, serve_roads: Callable, server: Server, roads_top: str, panorama_top: str
) -> None:
    record = serve_roads(road_files(roads_top), panorama_files(panorama_top))
    result = run_roads()
    assert (result.status, result.err) == (0, "")
    assert ROADS_PAGE in result.out
    for file in record["files"]:
        assert f"{file['size']:,} bytes, {file['checksum']} (as published)" in result.out
    assert "data/roadimages: 2 samples to train on, 6 to test on" in result.out
    assert "data/panorama: 3 samples to train on, 7 to test on" in result.out
    assert len(list_samples(LAYOUTS["RoadImages"], Path("data/roadimages"))) == 8
    assert len(list_samples(LAYOUTS["Panorama"], Path("data/panorama"))) == 10
    assert server.ranges == [None] * 3

    again = run_roads()
    assert again.status == 0
    assert again.out.count("is there already") == 2
    assert len(server.requests) == 3


def test_only_the_missing_road_set_is_fetched(
    run_roads: Callable, serve_roads: Callable, server: Server
) -> None:
    serve_roads(road_files(), panorama_files())
    for name, content in panorama_files("data/panorama/").items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(content)
    result = run_roads()
    assert (result.status, result.err) == (0, "")
    assert "data/panorama is there already" in result.out
    assert [path for path, _ in server.requests] == ["/record", "/roadimages.zip/content"]


def test_cut_road_download_continues_in_another_run(
    run_roads: Callable, serve_roads: Callable, server: Server
) -> None:
    serve_roads(road_files(), panorama_files())
    server.cuts, server.statuses = [10**6, 200], [0, 0, 502]
    assert_refused(run_roads(), "502", "200 bytes are kept in data/roadimages.zip.part")
    assert run_roads().status == 0
    assert server.requests[-2] == ("/roadimages.zip/content", "bytes=200-")


def test_wrong_checksum_of_a_road_archive(
    run_roads: Callable, serve_roads: Callable, server: Server
) -> None:
    record = serve_roads(road_files(), panorama_files())
    record["files"][0]["checksum"] = md5(b"something else")
    server.files["/record"] = json.dumps(record).encode()
    assert_refused(run_roads(), "/roadimages.zip/content", md5(b"something else"), ROADS_PAGE)
    assert list(Path("data").iterdir()) == []


@pytest.mark.parametrize("checksum", [None, "absent"])
def test_record_without_checksums(
    run_roads: Callable, serve_roads: Callable, server: Server, checksum: str | None
) -> None:
    record = serve_roads(road_files(), panorama_files())
    for file in record["files"]:
        file["checksum"] = None
        if checksum == "absent":
            del file["checksum"]
    server.files["/record"] = json.dumps(record).encode()
    result = run_roads()
    assert (result.status, result.err) == (0, "")
    content = server.files["/roadimages.zip/content"]
    assert isinstance(content, bytes)
    assert f"{sha256(content)} (none is published to compare with)" in result.out


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"files": null}',
        b'{"files": [1]}',
        b'{"files": [{"key": "roadimages.zip"}]}',
        b'{"files": [{"key": "roadimages.zip", "size": "big", "links": {"self": "http://x"}}]}',
        b'{"files": [{"key": "a", "size": 1, "checksum": "crc:12", "links": {"self": "http://x"}}]}',
        b'{"files": [{"key": "a", "size": 1, "checksum": 12, "links": {"self": "http://x"}}]}',
    ],
)
def test_something_else_than_a_record(run_roads: Callable, server: Server, record: bytes) -> None:
    server.files["/record"] = record
    assert_refused(run_roads(), f"{server.url}/record: not a Zenodo record", ROADS_PAGE)


def test_record_without_an_archive(
    run_roads: Callable, serve_roads: Callable, server: Server
) -> None:
    record = serve_roads(road_files(), panorama_files())
    del record["files"][1]
    server.files["/record"] = json.dumps(record).encode()
    assert_refused(run_roads(), "lists no panorama_images.zip", ROADS_PAGE)
    assert Path("data/roadimages").is_dir()


def test_record_is_gone(run_roads: Callable, server: Server) -> None:
    assert_refused(run_roads(), "404", ROADS_PAGE)


def test_record_is_cut_off(run_roads: Callable, serve_roads: Callable, server: Server) -> None:
    serve_roads(road_files(), panorama_files())
    server.cuts = [50]
    server.is_chunked = True
    assert_refused(run_roads(), f"{server.url}/record", "cut off", "run this again")


@pytest.mark.parametrize(
    ("lost", "mentions"),
    [
        ("bad_ones/", ["data/roadimages/bad_ones: no such folder"]),
        ("good_ones/intensity_files/", ["data/roadimages/good_ones/intensity_files: no such"]),
        ("bad_ones/height_files/2", ["do not pair", "(2)"]),
    ],
)
def test_road_archive_lacks_something(
    run_roads: Callable, serve_roads: Callable, lost: str, mentions: list[str]
) -> None:
    files = {name: content for name, content in road_files().items() if not name.startswith(lost)}
    serve_roads(files, panorama_files())
    assert_refused(run_roads(), "data/roadimages.zip is extracted, but", *mentions)


# --- the command ---


@pytest.mark.parametrize(
    ("arguments", "mention"),
    [
        ([], "name"),
        (["cats"], "'cats'"),
        (["roads", "--urls", "x"], "--urls"),
        (["roads", "--root", ""], "--root"),
        (["roads", "--url", ""], "not an address"),
        (["mvtec", "--url", "nonsense"], "nonsense: not an address"),
        (["mvtec", "--url", "file:///etc/passwd"], "has to start with"),
        (["mvtec", "--url", "http://127.0.0.1:port/"], "port"),
        (["mvtec", "--url", "http://[::1"], "not an address"),
        (["mvtec", "--url", "http://127.0.0.1/two words"], "not an address"),
    ],
)
def test_wrong_command_line(run: Callable, arguments: list[str], mention: str) -> None:
    assert_refused(run(*arguments), mention)


@pytest.mark.parametrize("place", ["data", "data/mvtec"])
def test_file_in_the_place_of_a_folder(
    run: Callable, serve_mvtec: Callable, place: str, tmp_path: Path
) -> None:
    serve_mvtec(mvtec_files())
    file = tmp_path / place
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"mine")
    assert_refused(run("mvtec", "--root", tmp_path / "data"), file, "--root")
    assert file.read_bytes() == b"mine"


def test_help_names_both_data_sets(run: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as finished:
        run("--help")
    assert finished.value.code == 0
    out = capsys.readouterr().out
    assert "MVTec AD" in out
    assert "ROOT/panorama" in out


def test_progress_is_shown_on_a_terminal(
    run: Callable, serve_mvtec: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve_mvtec(mvtec_files())
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    result = run("mvtec")
    assert result.status == 0
    for action in ("download", "verify", "extract"):
        last = [line for line in result.err.split("\r") if line.startswith(action)][-1]
        assert "mvtec_anomaly_detection.tar.xz" in last
        assert "100%" in last


def test_ctrl_c_keeps_what_came(
    run: Callable, serve_mvtec: Callable, server: Server, tmp_path: Path
) -> None:
    content = serve_mvtec(mvtec_files())
    server.cuts = [len(content) // 2]
    server.release.clear()
    # The handler is set because a shell that starts processes in the background ignores SIGINT.
    code = (
        "import signal, sys; from datasets.download import main; "
        "signal.signal(signal.SIGINT, signal.default_int_handler); sys.exit(main())"
    )
    part = tmp_path / "data/mvtec_anomaly_detection.tar.xz.part"
    with subprocess.Popen(
        [sys.executable, "-c", code, "mvtec", "--root", "data", "--url", f"{server.url}/mvtec"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = time.monotonic() + 60
        while not part.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "datasets.download: interrupted; run it again to continue\n"
    assert content.startswith(part.read_bytes())

    part.write_bytes(content[:100])
    assert run("mvtec", "--root", "data").status == 0
    assert server.ranges == [None, "bytes=100-"]


def test_command_runs_as_a_module_and_without_torch(run_python: Callable, tmp_path: Path) -> None:
    refused = run_python("-m", "datasets.download", "mvtec", "--url", "nonsense", cwd=tmp_path)
    assert_refused(Finished(refused.returncode, refused.stdout, refused.stderr), "nonsense")
    code = "import sys, datasets.download; sys.exit('torch' in sys.modules)"
    assert run_python("-c", code, cwd=tmp_path).returncode == 0
