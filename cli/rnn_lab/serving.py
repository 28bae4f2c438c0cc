"""One page and its data on 127.0.0.1, for those who know its address, which holds a random token."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from hmac import compare_digest
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from uuid import uuid4

from rnn_plugins.errors import UserError, why

ADDRESS = "127.0.0.1"

SECONDS = 10.0
"""After which a connection that says nothing is closed."""

HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Headers of every answer: the address is not passed on, and no other page may show or read this one."""


class Server(ThreadingHTTPServer):
    """Serves a page and the answers to its questions, and refuses everything else.

    Attributes:
        page: the page.
        tell: from a question's parameters to its answer, as JSON takes it; called in a thread for each question.
    """

    daemon_threads = True

    def __init__(self, page: str, tell: Callable[[Mapping[str, str]], Any], port: int = 0) -> None:
        """Take a port, 0 for any free one.

        Raises:
            UserError: it cannot be taken.
        """
        self.page, self.tell, self._secret = page, tell, uuid4().hex
        try:
            super().__init__((ADDRESS, port), Handler)
        except OSError as error:
            raise UserError(
                f"--port is {port}, which cannot be used ({why(error)}): name another, or leave it out"
            ) from None

    @property
    def address(self) -> str:
        """Where a browser finds the page."""
        return f"http://{ADDRESS}:{self.server_port}/{self._secret}/"

    def is_own(self, host: str) -> bool:
        """Whether a request names this server, and not a name of another page that leads here (DNS rebinding)."""
        return host in {f"{name}:{self.server_port}" for name in (ADDRESS, "localhost")}

    def asked(self, path: str) -> str | None:
        """What a path asks for, after the token; None if it does not begin with it."""
        first, slash, rest = path.removeprefix("/").partition("/")
        return slash + rest if compare_digest(first.encode(), self._secret.encode()) else None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a browser that went away."""


class Handler(BaseHTTPRequestHandler):
    """One request: GET or HEAD of the page, or GET of ``told``."""

    server: Server
    server_version, sys_version = "rnn", ""
    timeout = SECONDS

    def do_GET(self) -> None:  # the name is http.server's
        """Answer a request."""
        parts = urlsplit(self.path)
        if not self.server.is_own(self.headers.get("Host", "")):
            return self._answer(403, "text/plain", "This address is for the machine itself.\n")
        match self.server.asked(parts.path):
            case "/":
                return self._answer(200, "text/html", self.server.page)
            case "/told":
                told = self.server.tell(dict(parse_qsl(parts.query)))
                return self._answer(200, "application/json", json.dumps(told, allow_nan=False))
        self._answer(404, "text/plain", "There is nothing here.\n")

    do_HEAD = do_GET

    def _answer(self, status: int, kind: str, content: str) -> None:
        body = content.encode("utf-8", "replace")
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Print nothing: the address has a secret in it."""
