"""Files from the web: downloaded once into the cache, and read from there."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
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

ELSEWHERE = "or download it elsewhere, and give the file"
"""The end of each advice."""


def is_url(source: str) -> bool:
    """Whether a source is an address on the web."""
    return source.lower().startswith(("https://", "http://"))


def place(url: str, folder: Path) -> Path:
    """The file of an address in a cache: a folder per address, and in it the name that the address ends with."""
    path = re.sub(r"[?#].*", "", url).rstrip("/")
    name = re.sub(r"[^\w.-]+", "-", path.rpartition("/")[2]).strip("-.")[-100:]
    return folder / "downloads" / hashlib.sha256(url.encode()).hexdigest()[:16] / (name or "download")


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
            _download(url, file)
        except OSError as error:
            raise UserError(f"{url} cannot be kept in {str(file.parent)!r}: {why(error)}; set RNN_LAB_CACHE") from None
    digest = hashlib.sha256()
    with open(file, "rb") as content:
        while chunk := content.read(CHUNK):
            digest.update(chunk)
    origin = "is in the cache" if known else "is downloaded"
    return file, f"{url} {origin}: {file.stat().st_size:,} bytes, SHA-256 {digest.hexdigest()}, in {str(file)!r}"


def _download(url: str, file: Path) -> None:
    """Download a file under another name, and rename it when it is complete.

    Raises:
        UserError: the server cannot be reached, refuses, or ends early; or it sends a web page.
        OSError: the file cannot be written.
    """
    with tempfile.NamedTemporaryFile(dir=file.parent, prefix=".part-", delete=False) as part:
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
        raise UserError(f"{url}: {answered}; check the address, {ELSEWHERE}") from None
    except URLError as error:
        reason = error.reason.strerror if isinstance(error.reason, OSError) else None
        raise _unreached(url, reason or str(error.reason)) from None
    except (OSError, HTTPException, ValueError) as error:  # ValueError: it is no address
        raise _unreached(url, str(error) or type(error).__name__) from None
    return answer


def _copy(url: str, answer: HTTPResponse, part: tempfile._TemporaryFileWrapper[bytes]) -> None:
    """Write what the server sends.

    Raises:
        UserError: it ends early, or sends nothing for too long.
        OSError: it cannot be written.
    """
    from http.client import HTTPException

    length = answer.headers.get("Content-Length", "")
    size, done = int(length) if length.isdigit() else 0, 0
    while True:
        try:
            chunk = answer.read(CHUNK)
        except (OSError, HTTPException) as error:
            raise _unreached(url, str(error) or type(error).__name__) from None
        if not chunk:
            break
        part.write(chunk)
        done += len(chunk)
        if size:
            advance(min(done / size, 1.0))
    if done < size:
        raise _unreached(url, f"it ended after {done:,} of {size:,} bytes")


def _unreached(url: str, reason: str) -> UserError:
    return UserError(
        f"{url} cannot be downloaded: {reason.lower().rstrip('.')}; check the connection and the address, {ELSEWHERE}"
    )
