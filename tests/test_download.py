"""Texts from the web, from a server on this machine: into the cache, with a digest, once."""

import gzip
import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from command_line import SMALL, TEXT, refused, settle, train, trained

from rnn_cli.main import rnn
from rnn_lab import sessions
from rnn_lab.runs import find_run
from rnn_plugins import progress
from rnn_plugins.data.download import downloaded, is_url, place

CONTENT = TEXT.encode()
DIGEST = hashlib.sha256(CONTENT).hexdigest()
ELSEWHERE = "or download it elsewhere, and give the file"


class Handler(BaseHTTPRequestHandler):
    """Serves a text, also packed and in chunks, a page, files that end early, and redirections; counts requests."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        name = self.path.partition("?")[0]
        if name == "/old.txt":
            self.send_response(301)
            self.send_header("Location", "/fox.txt")
            self.end_headers()
            return
        if name in ("/round", "/away"):
            self.send_response(302)
            self.send_header("Location", f"/round?{len(self.asked)}" if name == "/round" else "file:///etc/hostname")
            self.end_headers()
            return
        if name in ("/chunks.txt", "/chunk.txt"):
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(CONTENT), CONTENT) if name == "/chunks.txt" else b"ff\r\nthe")
            self.wfile.write(b"0\r\n\r\n" if name == "/chunks.txt" else b"")
            return
        kinds = {"/fox.txt": "text/plain", "/fox.txt.gz": "application/gzip", "/cut.txt": "text/plain"}
        kinds |= {"/page": "text/html; charset=utf-8", "/packed.txt": "text/plain", "/empty.txt": "text/plain"}
        kinds |= {"/packed.txt.gz": "text/plain", "/packet.txt": "text/plain", "/latin.txt": "text/plain"}
        if name not in kinds:
            self.send_error(404)
            return
        packed = name.startswith("/pack")
        content = gzip.compress(CONTENT) if name.endswith(".gz") or packed else CONTENT
        content = {"/empty.txt": b"", "/packet.txt": content[:50], "/latin.txt": b"na\xefve " * 9}.get(name, content)
        self.send_response(200)
        if packed:
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Type", kinds[name])
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: 100 if name == "/cut.txt" else None])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    settle(tmp_path, monkeypatch)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    Handler.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def parts() -> list[Path]:
    """What is left of downloads that were not finished."""
    return list(Path("cache").rglob(".part-*"))


@pytest.mark.parametrize(
    "name",
    [
        "fox.txt", "fox.txt.gz", "old.txt", "fox.txt?version=2", "chunks.txt", "packed.txt", "packed.txt.gz"
    ],
)  # fmt: skip
def test_an_address_is_a_text(server: str, name: str) -> None:
    run, result = trained(f"{server}/{name}", *SMALL)
    lines = result.stderr.splitlines()
    assert lines[0] == f"downloading {server}/{name} ..."
    file = place(f"{server}/{name}", Path("cache"))
    content = file.read_bytes()
    assert lines[1] == (
        f"Note: downloaded {server}/{name}: {len(content):,} bytes, SHA-256 {hashlib.sha256(content).hexdigest()}, "
        f"in {str(file)!r}."
    )
    assert run.name == f"gru-{name.partition('.')[0]}"
    assert run.manifest["settings"]["files"] == run.manifest["data"]["sources"] == [f"{server}/{name}"]
    alone, _ = trained("fox.txt", *SMALL, "--name", "alone")
    assert sessions.same_weights(run, alone)
    assert not parts()


def test_a_file_is_downloaded_once_and_read_without_a_connection(server: str) -> None:
    address = f"{server}/fox.txt"
    trained(address, *SMALL)
    assert Handler.asked == ["/fox.txt"]
    result = train(address, *SMALL)
    assert "downloading" not in result.stderr
    file = place(address, Path("cache"))
    assert (
        f"Note: the copy of {address} in the cache is read: 540 bytes, SHA-256 {DIGEST}, in {str(file)!r}."
        in result.stderr
    )
    assert train("--resume", "gru-fox", "--steps", "14").exit_code == 0
    assert CliRunner().invoke(rnn, ["rerun", "gru-fox", "--quiet"]).exit_code == 0
    evaluated = CliRunner().invoke(rnn, ["eval", "gru-fox", address, "--json"])
    assert json.loads(evaluated.stdout)["text"] == address
    assert Handler.asked == ["/fox.txt"]
    file.unlink()
    again = train("--resume", "gru-fox", "--steps", "16")
    assert again.exit_code == 0
    assert again.stderr.startswith(f"downloading {address} ...\n")
    assert Handler.asked == ["/fox.txt"] * 2


def test_held_out_texts_and_comparisons_take_addresses_too(server: str) -> None:
    run, _ = trained("fox.txt", "--valid", f"{server}/fox.txt", *SMALL)
    assert run.settings.valid == (f"{server}/fox.txt",)
    words = ["compare", f"{server}/fox.txt", "--cell", "rnn", "--cell", "gru", "--seeds", "1", *SMALL]
    result = CliRunner().invoke(rnn, words)
    assert result.exit_code == 0, result.output
    assert find_run("rnn-fox-s1").settings.files == (f"{server}/fox.txt",)


def test_the_share_that_is_done_is_told(server: str) -> None:
    told = list[tuple[str | None, float | None]]()
    with progress.following(lambda what, share: told.append((what, share))):
        downloaded(f"{server}/fox.txt")
    assert told == [(f"downloading {server}/fox.txt", None), (None, 1.0)]


def test_what_the_server_does_not_have_is_told(server: str) -> None:
    address = f"{server}/none.txt"
    assert refused(address, "--quiet") == (
        f"{address}: the server answers 404 Not Found; check the address, {ELSEWHERE}"
    )
    assert refused(f"{server}/page", "--quiet") == (
        f"{server}/page is a web page; give the address of the file itself, such as that of Raw on GitHub, {ELSEWHERE}"
    )
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("cut.txt", "cannot be downloaded: it ended after 100 of 540 bytes; check the connection and the address"),
        ("chunk.txt", "cannot be downloaded: it ended after 0 bytes; check the connection and the address"),
        ("packet.txt", "cannot be downloaded: it ended after 0 bytes; check the connection and the address"),
        ("empty.txt", "is empty; check the address"),
    ],
)
def test_what_ends_early_is_not_kept(server: str, name: str, reason: str) -> None:
    assert refused(f"{server}/{name}", "--quiet") == f"{server}/{name} {reason}, {ELSEWHERE}"
    assert not parts()
    assert not place(f"{server}/{name}", Path("cache")).exists()


@pytest.mark.parametrize("name", ["round", "away"])
def test_a_redirection_that_leads_nowhere_is_told(server: str, name: str) -> None:
    assert refused(f"{server}/{name}", "--quiet") == (
        f"{server}/{name}: the server redirects without end, or to what is no address on the web; check the address, "
        f"{ELSEWHERE}"
    )


def test_a_file_that_there_is_no_room_for_is_not_begun(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=539))
    assert refused(f"{server}/fox.txt", "--quiet") == (
        f"{server}/fox.txt has 540 bytes, and there is room for 539 in the cache: set RNN_LAB_CACHE to a folder with "
        f"more, {ELSEWHERE}"
    )
    assert not parts()


def test_what_a_killed_download_has_left_is_removed_by_the_next(server: str) -> None:
    folder = place(f"{server}/fox.txt", Path("cache")).parent
    folder.mkdir(parents=True)
    dead, alive = folder / ".part-dead", folder / ".part-alive"
    dead.write_text("the")
    alive.write_text("the")
    os.utime(dead, (time.time() - 3600,) * 2)
    downloaded(f"{server}/fox.txt")
    assert parts() == [alive]


def test_what_is_wrong_with_a_downloaded_file_is_told_of_its_address(server: str) -> None:
    address = f"{server}/latin.txt"
    path = str(place(address, Path("cache")))
    assert refused(address, "--quiet").startswith(f"{address}: {path!r} is not UTF-8 (0xEF at byte offset 2); ")
    other = f"{server}/fox.txt?short"
    result = train(other, *SMALL, "--task-option", "valid_fraction=0.99", "--steps", "1")
    assert str(place(other, Path("cache"))) not in re.sub(r"Note: downloaded [^\n]*", "", result.stderr)
    assert f"held-out last 99 % of {other!r} has" in result.stderr


@pytest.mark.parametrize("words", [["score", "gru-fox"], ["report", "gru-fox", "--text"], ["report", "--cell", "gru"]])
def test_whoever_reads_an_address_shows_its_download(server: str, words: list[str]) -> None:
    trained("fox.txt", *SMALL)
    result = CliRunner().invoke(rnn, [*words, f"{server}/fox.txt"])
    assert result.exit_code == 0, result.output
    assert f"downloading {server}/fox.txt ...\n" in result.stderr


def test_inputs_of_predictions_come_from_an_address(server: str) -> None:
    trained("fox.txt", *SMALL)
    result = CliRunner().invoke(rnn, ["predict", "gru-fox", f"{server}/fox.txt"])
    begun, told = result.stderr.splitlines()
    assert begun == f"downloading {server}/fox.txt ..."
    assert told.startswith(f"Note: Downloaded {server}/fox.txt: 540 bytes, SHA-256 {DIGEST}, in ")
    assert result.stdout == CliRunner().invoke(rnn, ["predict", "gru-fox", "fox.txt"]).stdout != ""


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/fox.txt", "http://", "https://127.0.0.1:x/", "http://[::1/a"])
def test_without_a_connection_it_is_said_in_one_sentence(address: str, server: str) -> None:
    said = refused(address, "--quiet")
    assert said.startswith(f"{address} cannot be downloaded: ")
    assert said.endswith(f"; check the connection and the address, {ELSEWHERE}")
    assert "\n" not in said


def test_a_name_without_a_server_is_told(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError(-3, "Temporary failure in name resolution")

    monkeypatch.setattr("socket.create_connection", offline)
    assert refused("https://example.invalid/book.txt", "--quiet") == (
        "https://example.invalid/book.txt cannot be downloaded: temporary failure in name resolution; check the "
        f"connection and the address, {ELSEWHERE}"
    )


def test_a_cache_that_cannot_be_written_is_told(server: str) -> None:
    Path("file").write_text("")
    os.environ["RNN_LAB_CACHE"] = "file"
    said = refused(f"{server}/fox.txt", "--quiet")
    assert said.startswith(f"{server}/fox.txt cannot be kept in 'file/downloads/")
    assert said.endswith(": not a directory; set RNN_LAB_CACHE")


def test_addresses_and_the_names_of_their_files() -> None:
    assert [is_url(text) for text in ("https://a.b/c", "HTTP://a", "ftp://a", "a.txt", "https.txt")] == [
        True, True, False, False, False
    ]  # fmt: skip
    names = {
        "https://a.b/c/input.txt": "input.txt", "https://a.b/c.txt?raw=1#top": "c.txt", "https://a.b/": "a.b",
        "https://a.b/..": "download", "https://a.b/%2e%2e%2fx": "2e-2e-2fx", "https://a.b/c;d\\e": "c-d-e",
    }  # fmt: skip
    assert {url: place(url, Path("cache")).name for url in names} == names
    assert len({place(url, Path("cache")).parent for url in names}) == len(names)
