"""Texts from the web, from a server on this machine: into the cache, with a digest, once."""

import gzip
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

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
    """Serves a text, also packed, a page, a file that ends early, and a redirection; counts requests."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        name = self.path.partition("?")[0]
        if name == "/old.txt":
            self.send_response(301)
            self.send_header("Location", "/fox.txt")
            self.end_headers()
            return
        kinds = {"/fox.txt": "text/plain", "/fox.txt.gz": "application/gzip", "/cut.txt": "text/plain"}
        kinds |= {"/page": "text/html; charset=utf-8"}
        if name not in kinds:
            self.send_error(404)
            return
        content = gzip.compress(CONTENT) if name.endswith(".gz") else CONTENT
        self.send_response(200)
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


@pytest.mark.parametrize("name", ["fox.txt", "fox.txt.gz", "old.txt", "fox.txt?version=2"])
def test_an_address_is_a_text(server: str, name: str) -> None:
    run, result = trained(f"{server}/{name}", *SMALL)
    lines = result.stderr.splitlines()
    assert lines[0] == f"downloading {server}/{name} ..."
    file = place(f"{server}/{name}", Path("cache"))
    content = file.read_bytes()
    assert lines[1] == (
        f"Note: {server}/{name} is downloaded: {len(content):,} bytes, SHA-256 {hashlib.sha256(content).hexdigest()}, "
        f"in {str(file)!r}."
    )
    assert run.name == ("gru-old" if name == "old.txt" else "gru-fox")
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
    assert f"Note: {address} is in the cache: 540 bytes, SHA-256 {DIGEST}, in {str(file)!r}." in result.stderr
    assert train("--resume", "gru-fox", "--steps", "14").exit_code == 0
    assert CliRunner().invoke(rnn, ["rerun", "gru-fox", "--quiet"]).exit_code == 0
    evaluated = CliRunner().invoke(rnn, ["eval", "gru-fox", address, "--json"])
    assert json.loads(evaluated.stdout)["text"] == address
    assert Handler.asked == ["/fox.txt"]
    file.unlink()
    assert train("--resume", "gru-fox", "--steps", "16").exit_code == 0
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
    address = f"{server}/cut.txt"
    said = refused(address, "--quiet")
    assert said.startswith(f"{address} cannot be downloaded: ")
    assert said.endswith(f"; check the connection and the address, {ELSEWHERE}")
    assert not parts()
    assert not place(address, Path("cache")).exists()
    assert not Path("runs").exists()


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
