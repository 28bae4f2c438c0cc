"""Files from the web: downloaded once into the cache, and read from there."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rnn_plugins.errors import UserError, why
from rnn_plugins.progress import advance, begin

if TYPE_CHECKING:
    from http.client import HTTPResponse

SECONDS = 30.0
"""The longest time to wait for a server's next bytes."""

CHUNK = 1 << 16
"""Bytes read at a time."""

PART = ".part-"
"""The beginning of the name of a file that is being downloaded."""

ELSEWHERE = "or download it elsewhere, and give the file"
"""The end of each advice."""


def is_url(source: str) -> bool:
    """Whether a source is an address on the web."""
    return source.lower().startswith(("https://", "http://"))


def place(url: str, folder: Path) -> Path:
    """The file of an address in a cache: a folder per address, and in it the name that the address ends with."""
    name = re.sub(r"[^\w.-]+", "-", _end_of(url)).strip("-.")[-100:]
    return folder / "downloads" / hashlib.sha256(url.encode()).hexdigest()[:16] / (name or "download")


def _end_of(url: str) -> str:
    """The last part of an address."""
    return re.sub(r"[?#].*", "", url).rstrip("/").rpartition("/")[2]


def downloaded(url: str) -> tuple[Path, str]:
    """The file of an address, downloaded if it is not there yet, and a sentence with its size and digest.

    Args:
        url: the address.

    Raises:
        UserError: it cannot be downloaded, or it is a web page.
    """
    from rnn_plugins.data.corpus import cache_folder

    file = place(url, cache_folder())
    known = file.is_file()
    if not known:
        begin(f"downloading {url}")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            _clear(file.parent)
            _download(url, file)
        except OSError as error:
            raise UserError(f"{url} cannot be kept in {str(file.parent)!r}: {why(error)}; set RNN_LAB_CACHE") from None
    digest = hashlib.sha256()
    with open(file, "rb") as content:
        while chunk := content.read(CHUNK):
            digest.update(chunk)
    what = f"the copy of {url} in the cache is read" if known else f"downloaded {url}"  # no sentence begins with it
    return file, f"{what}: {file.stat().st_size:,} bytes, SHA-256 {digest.hexdigest()}, in {str(file)!r}"


def _clear(folder: Path) -> None:
    """Remove what is left of downloads whose process was killed: nothing has been written to it for a long time."""
    for part in folder.glob(f"{PART}*"):
        with suppress(OSError):
            if time.time() - part.stat().st_mtime > 2 * SECONDS:
                part.unlink()


def _download(url: str, file: Path) -> None:
    """Download a file under another name, and rename it when it is complete.

    Raises:
        UserError: the server cannot be reached, refuses, or ends early; or it sends a web page, nothing, or more than
            there is room for.
        OSError: the file cannot be written.
    """
    with tempfile.NamedTemporaryFile(dir=file.parent, prefix=PART, delete=False) as part:
        try:
            with _opened(url) as answer:
                if answer.headers.get_content_type() == "text/html":
                    raise UserError(
                        f"{url} is a web page; give the address of the file itself, such as that of Raw on GitHub, "
                        f"{ELSEWHERE}"
                    )
                _copy(url, answer, part)
            part.close()
            os.replace(part.name, file)
        finally:
            with suppress(OSError):
                os.unlink(part.name)


def _opened(url: str) -> HTTPResponse:
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError
    from urllib.request import Request, urlopen

    try:
        answer: HTTPResponse = urlopen(Request(url, headers={"User-Agent": "rnn-lab"}), timeout=SECONDS)
    except HTTPError as error:
        error.close()
        answered = f"the server answers {error.code} {error.reason}"
        if 300 <= error.code < 400:
            answered = "the server redirects without end, or to what is no address on the web"
        raise UserError(f"{url}: {answered}; check the address, {ELSEWHERE}") from None
    except URLError as error:
        reason = error.reason.strerror if isinstance(error.reason, OSError) else None
        raise _unreached(url, reason or str(error.reason)) from None
    except (OSError, HTTPException, ValueError) as error:  # ValueError: it is no address
        raise _unreached(url, str(error) or type(error).__name__) from None
    return answer


def _copy(url: str, answer: HTTPResponse, part: tempfile._TemporaryFileWrapper[bytes]) -> None:
    """Write what the server sends, unpacked if it packs for the way only.

    Raises:
        UserError: it ends early, sends nothing at all or nothing for too long, or there is no room for it.
        OSError: it cannot be written.
    """
    import gzip
    import zlib
    from http.client import HTTPException, IncompleteRead

    length = answer.headers.get("Content-Length", "")
    size, done = int(length) if length.isdigit() else 0, 0
    free = shutil.disk_usage(os.path.dirname(part.name)).free
    if size > free:
        raise UserError(
            f"{url} has {size:,} bytes, and there is room for {free:,} in the cache: set RNN_LAB_CACHE to a folder "
            f"with more, {ELSEWHERE}"
        )
    source: HTTPResponse | gzip.GzipFile = answer
    if answer.headers.get("Content-Encoding", "") in ("gzip", "x-gzip") and not _end_of(url).endswith(".gz"):
        source, size = gzip.GzipFile(fileobj=answer), 0
    while True:
        try:
            chunk = source.read(CHUNK)
        except (EOFError, IncompleteRead):
            raise _unreached(url, f"it ended after {done:,} bytes") from None
        except (OSError, HTTPException, zlib.error) as error:
            raise _unreached(url, str(error) or type(error).__name__) from None
        if not chunk:
            break
        part.write(chunk)
        done += len(chunk)
        if size:
            advance(min(done / size, 1.0))
    if done < size:
        raise _unreached(url, f"it ended after {done:,} of {size:,} bytes")
    if not done:
        raise UserError(f"{url} is empty; check the address, {ELSEWHERE}")


def _unreached(url: str, reason: str) -> UserError:
    reason = reason[:1].lower() + reason[1:].rstrip(".")
    return UserError(f"{url} cannot be downloaded: {reason}; check the connection and the address, {ELSEWHERE}")
