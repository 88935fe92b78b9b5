"""Fetch one file over HTTP: continue what was cut off, and compare it with its checksum."""

import hashlib
import http.client
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from tqdm import tqdm

from crn.errors import UserError

_HEADERS = {"User-Agent": "competitive-reconstruction-networks"}
_TIMEOUT = 60  # seconds without a single byte
_CHUNK = 1 << 18
# HTTP statuses that pass: too early, too many requests, and the server's own troubles.
_PASSING = {408, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True)
class Source:
    """A file to fetch.

    Attributes:
        url: its address, http or https.
        elsewhere: where people find it when the address is of no use.
        size: in bytes, where it is published.
        checksum: "sha256:..." or "md5:...", where it is published.
    """

    url: str
    elsewhere: str
    size: int | None = None
    checksum: str | None = None


class Interrupted(Exception):
    """The connection failed; another attempt may succeed."""


class _NothingFollows(Exception):
    """The server has no more bytes than there are already."""


def fetch(source: Source, path: Path) -> str:
    """Download a file, or what is missing of it, and verify it.

    Until it is verified, the file is called ``path`` with .part at the end. Such a file of an
    earlier run is continued. A file that is at ``path`` is verified, and left as it is.

    Returns:
        Its checksum, as in `Source`; SHA-256 where none is published.

    Raises:
        UserError: it cannot be had or written, or size or checksum are wrong; a download with a
            wrong checksum is deleted.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        if path.exists():
            checksum, mistake = _verify(path, source)
            if mistake:
                raise UserError(f"{path}: {mistake}; move it away to download it again")
            return checksum
        if source.checksum is None:
            part.unlink(missing_ok=True)  # nothing could tell whether two halves fit
        _download(source, part)
        checksum, mistake = _verify(part, source)
        if mistake:
            part.unlink()
            raise UserError(
                f"{source.url}: {mistake}; what came is deleted. Run this again, or see "
                f"{source.elsewhere}"
            )
        part.rename(path)
        return checksum
    except OSError as error:
        raise UserError(
            f"{error.filename or part}: cannot be read or written ({error.strerror or error}); "
            "mend that and run this again"
        ) from None


def _verify(path: Path, source: Source) -> tuple[str, str | None]:
    """The checksum of a file, and what is wrong with the file, if anything is."""
    algorithm = source.checksum.partition(":")[0] if source.checksum else "sha256"
    size = path.stat().st_size
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with (
        path.open("rb") as file,
        tqdm.wrapattr(file, "read", total=size, desc=f"verify {path.name}", disable=None) as stream,
    ):
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    checksum = f"{algorithm}:{digest.hexdigest()}"
    if source.size not in (None, size):
        return checksum, f"has {size:,} bytes instead of {source.size:,}"
    if source.checksum not in (None, checksum):
        return checksum, f"has the checksum {checksum} instead of {source.checksum}"
    return checksum, None


def _download(source: Source, part: Path) -> None:
    """Complete a partial file, in as many attempts as bring more of it."""
    while True:
        have = _size(part)
        if have and have == source.size:
            return
        try:
            _append(source, part, have)
            return
        except _NothingFollows:
            if not _verify(part, source)[1]:
                return
            part.unlink()  # it is of another file; start anew
        except Interrupted as error:
            size = _size(part)
            if size > have:
                continue
            kept = f"{size:,} bytes are kept in {part}; " if size else ""
            raise UserError(
                f"{source.url}: {error}; {kept}check the connection and run this again"
            ) from None


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _append(source: Source, part: Path, have: int) -> None:
    """Append the bytes from ``have`` on, or write all of them where the server sends all.

    Raises:
        _NothingFollows: the file has at most ``have`` bytes.
        Interrupted: the connection failed; what came is in the file.
        UserError: there is no such file, or it has another size.
        OSError: the file cannot be written.
    """
    advice = f"get it from {source.elsewhere}, save it as {part.with_suffix('')} and run this again"
    with open_url(source.url, advice, have) as response:
        content_range = response.headers.get("Content-Range", "")
        if response.status == 206 and content_range.startswith(f"bytes {have}-"):
            start = have
        elif response.status == 200:
            start = 0
        else:
            raise UserError(
                f"{source.url}: the server answers {response.status} {content_range}; {advice}"
            )
        length = response.length
        total = source.size if length is None else start + length
        if source.size not in (None, total):
            raise UserError(
                f"{source.url}: has {total:,} bytes instead of {source.size:,}; not downloaded. "
                f"See {source.elsewhere}"
            )
        with (
            part.open("ab" if start else "wb") as file,
            tqdm(
                desc=f"download {part.stem}",
                total=total,
                initial=start,
                unit="B",
                unit_scale=True,
                unit_divisor=1024,
                disable=None,
            ) as progress,
        ):
            for chunk in read_chunks(response):
                file.write(chunk)
                progress.update(len(chunk))
    if total is not None and _size(part) < total:
        raise Interrupted(f"cut off after {_size(part):,} of {total:,} bytes")


def open_url(url: str, advice: str, have: int = 0) -> http.client.HTTPResponse:
    """Ask for a file from byte ``have`` on.

    Args:
        url: its address.
        advice: end of the message where there is no such file.
        have: only what follows these bytes is asked for; the server may send all.

    Raises:
        _NothingFollows: the file has at most ``have`` bytes.
        Interrupted: no connection, or an error that passes.
        UserError: there is no such file.
    """
    headers = _HEADERS | ({"Range": f"bytes={have}-"} if have else {})
    try:
        if urlsplit(url).scheme not in ("http", "https"):
            raise UserError(f"{url}: not an address; it has to start with https:// or http://")
        response = urlopen(Request(url, headers=headers), timeout=_TIMEOUT)
    except HTTPError as error:
        error.close()
        answer = f"the server answers {error.code} {error.reason}"
        if error.code == 416 and have:
            raise _NothingFollows from None
        if error.code in _PASSING:
            raise Interrupted(answer) from None
        raise UserError(f"{url}: {answer}; {advice}") from None
    except (http.client.InvalidURL, ValueError) as error:
        raise UserError(f"{url}: not an address ({error})") from None
    except (OSError, http.client.HTTPException) as error:
        raise Interrupted(f"cannot be reached ({_reason(error)})") from None
    if response.headers.get_content_type() == "text/html":
        response.close()
        raise UserError(f"{url}: the server answers with a web page; {advice}")
    return response


def read_chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """What comes, as it comes."""
    while True:
        try:
            chunk = response.read1(_CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise Interrupted(f"cut off ({_reason(error)})") from None
        if not chunk:
            return
        yield chunk


def _reason(error: Exception) -> str:
    cause = getattr(error, "reason", error)
    return getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
