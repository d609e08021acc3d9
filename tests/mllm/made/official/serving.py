"""A server on this machine for pictures of which a set has the addresses."""

from __future__ import annotations

import hashlib
from collections import Counter
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

_CONTENTS: dict[str, bytes] = {}
# requests, by path
ASKED: Counter[str] = Counter()


def anywhere(address) -> bool:
    """May connect: to this machine too."""
    return True


def served(content: bytes) -> str:
    """The address of a content."""
    path = f"/{hashlib.sha256(content).hexdigest()[:16]}"
    _CONTENTS[path] = content
    return f"{_base()}{path}"


def address_of_nothing() -> str:
    """An address at which there is nothing: status 404."""
    return f"{_base()}/nothing"


@cache
def _base() -> str:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        ASKED[self.path] += 1
        content = _CONTENTS.get(self.path)
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, *_):
        pass
