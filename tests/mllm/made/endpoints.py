"""An OpenAI-compatible endpoint on this machine that says, and does, what a test wants."""

import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def completion(text, model="judge-0613", finish="stop", **message):
    """The body of a good answer."""
    return {"model": model, "choices": [{"message": {"content": text, **message}, "finish_reason": finish}]}


@dataclass
class Reply:
    """What the server sends.

    Args:
        body: JSON, or bytes as they are.
        cut: declare the whole length, send half, and hang up.
        hangs_up: say nothing at all.
    """

    body: object = b""
    status: int = 200
    headers: dict = field(default_factory=dict)
    cut: bool = False
    hangs_up: bool = False


class Server(ThreadingHTTPServer):
    """Answers by ``respond(asked, number)``: the request's JSON, and how many came before; a text stands for a good answer."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, respond):
        super().__init__(("127.0.0.1", 0), Handler)
        self.respond = respond
        self.lock = threading.Lock()
        self.asked, self.headers = [], []
        self.in_flight = self.most_in_flight = 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    def said(self):
        """The last message of every request, in the order in which they came."""
        return [asked["messages"][-1]["content"] for asked in self.asked]

    def handle_error(self, request, client_address):
        """A client that was killed is no fault of the server's."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        server = self.server
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            number = len(server.asked)
            server.asked.append(asked)
            server.headers.append({"path": self.path, **self.headers})
            server.in_flight += 1
            server.most_in_flight = max(server.most_in_flight, server.in_flight)
        try:
            reply = server.respond(asked, number)
        finally:
            with server.lock:
                server.in_flight -= 1
        self.send(Reply(completion(reply)) if isinstance(reply, str) else reply)

    def send(self, reply):
        if reply.hangs_up:
            self.close_connection = True
            return
        body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if reply.cut else body)
        self.close_connection = reply.cut

    def log_message(self, *arguments):
        pass


@contextmanager
def serving(respond):
    """A :class:`Server`, until the block ends."""
    with Server(respond) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
