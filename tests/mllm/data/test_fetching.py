"""Downloads from strangers' addresses: who is spoken to, how much and how long, and what is told of a failure."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
import time

import pytest

from pargo_cli.main import build_parser
from pargo_mllm.data import fetching
from pargo_mllm.data.fetching import FetchError, fetch, is_public
from tests.mllm.made.official.serving import anywhere
from tests.mllm.made.shard_files import PICTURE


def refused(address, **options):
    with pytest.raises(FetchError) as raised:
        fetch(address, **options)
    return raised.value.reason


@pytest.fixture
def raw_server():
    """Starts servers that say what they are given, byte for byte; a function is called with the connection."""
    listening = []

    def start(answer):
        server = socket.create_server(("127.0.0.1", 0))
        listening.append(server)

        def serve():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.settimeout(5)
                    try:
                        connection.recv(65536)
                        answer(connection) if callable(answer) else connection.sendall(answer)
                    except OSError:
                        pass

        threading.Thread(target=serve, daemon=True).start()
        return f"http://127.0.0.1:{server.getsockname()[1]}/"

    yield start
    for server in listening:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2001:4860:4860::8888", True),
        # DNS64 names public machines so
        ("64:ff9b::808:808", True),
        ("::ffff:8.8.8.8", True),
        ("127.0.0.1", False),
        ("127.9.9.9", False),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("100.64.0.1", False),
        # where clouds tell their keys
        ("169.254.169.254", False),
        ("192.0.2.1", False),
        ("198.18.0.1", False),
        ("224.0.0.1", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("::7f00:1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("2002:7f00:1::", False),
        ("2002:a00:1::1", False),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", False),
        ("fe80::1", False),
        ("fec0::1", False),
        ("fc00::1", False),
        ("fd00:ec2::254", False),
        ("ff02::1", False),
        ("2001:db8::1", False),
    ],
)
def test_public_addresses(address, public):
    assert is_public(ipaddress.ip_address(address)) == public


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "0177.0.0.1", "127.1", "0", "[::1]", "[::ffff:127.0.0.1]", "localhost."],
)
def test_this_machine_is_not_spoken_to_however_it_is_spelled(host, httpserver):
    httpserver.expect_request("/a.png").respond_with_data(PICTURE)
    assert refused(f"http://{host}:{httpserver.port}/a.png") == fetching.NOT_PUBLIC
    assert not httpserver.log


@pytest.mark.parametrize(
    "address",
    [
        "file:///etc/passwd",
        "ftp://example.com/a.png",
        "gopher://example.com/",
        "data:image/png;base64,AAAA",
        "//example.com/a.png",
        "example.com/a.png",
        "",
        "http://",
        "http:///a.png",
        "http://example.com:0/",
        "http://example.com:99999/",
        "http://example.com:abc/",
        "http://name:password@example.com/a.png",
        "http://name@example.com/a.png",
        "http://exa mple.com/",
        "http://a..b/",
        "http://" + "a" * 70 + ".com/",
        "http://[::1/",
        "http://half\ud83d.com/",
        "http://example.com\x00.evil/",
    ],
)
def test_what_is_no_address_of_the_web_is_refused(address):
    assert refused(address, may_connect=anywhere) == fetching.NO_ADDRESS


def test_a_content_comes_as_it_is_and_nothing_of_ours_is_sent(httpserver, monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    httpserver.expect_request("/ä b.png", query_string={"size": "1 2"}).respond_with_data(
        PICTURE, headers={"Set-Cookie": "a=b"}
    )
    for _ in range(2):
        assert fetch(httpserver.url_for("/ä b.png?size=1 2"), may_connect=anywhere) == PICTURE
    for request, _ in httpserver.log:
        assert "pargo" in request.headers["User-Agent"]
        assert not {"Cookie", "Authorization", "Referer", "Proxy-Authorization"} & set(dict(request.headers))


def test_redirects_are_followed_five_times(httpserver):
    for number in range(7):
        httpserver.expect_request(f"/{number}").respond_with_data(status=302, headers={"Location": f"/{number - 1}"})
    httpserver.expect_request("/-1").respond_with_data(b"there")
    assert fetch(httpserver.url_for("/4"), may_connect=anywhere) == b"there"
    assert refused(httpserver.url_for("/5"), may_connect=anywhere) == fetching.REDIRECTS


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("file:///etc/passwd", fetching.NO_ADDRESS),
        ("http://127.0.0.2:{port}/a", fetching.NOT_PUBLIC),
        ("http://localhost:{port}/a", fetching.NOT_PUBLIC),
        ("//169.254.169.254/latest/meta-data", fetching.NOT_PUBLIC),
        ("http://user:pw@example.com/", fetching.NO_ADDRESS),
    ],
)
def test_a_redirect_is_looked_at_as_the_first_address_was(location, reason, httpserver):
    httpserver.expect_request("/").respond_with_data(status=302, headers={"Location": location.format(port=httpserver.port)})

    def first_alone(address):
        # as if the first server were on the public network: it is the first machine, by name or not, and no other
        return str(address) == "127.0.0.1" and not httpserver.log

    assert refused(httpserver.url_for("/").replace("localhost", "127.0.0.1"), may_connect=first_alone) == reason
    assert len(httpserver.log) == 1


def test_a_name_that_leads_elsewhere_a_moment_later_is_not_followed(httpserver, monkeypatch):
    """DNS rebinding: what is asked for a second time says another thing, so nothing may be asked twice."""
    asked = []
    real = socket.getaddrinfo

    def resolve(host, *arguments, **options):
        asked.append(host)
        return real("127.0.0.1" if len(asked) > 1 else "192.0.2.1", *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    # an address for documents, at which nobody is
    told = refused(
        f"http://rebound.example:{httpserver.port}/", seconds=0.3, may_connect=lambda address: not address.is_loopback
    )
    assert told in (fetching.TOO_SLOW, fetching.UNREACHABLE)
    assert asked == ["rebound.example"]
    assert not httpserver.log


def test_one_private_address_among_public_ones_is_enough(httpserver, monkeypatch):
    real = socket.getaddrinfo
    both = [*real("8.8.8.8", httpserver.port, type=socket.SOCK_STREAM), *real("127.0.0.1", httpserver.port)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    assert refused(f"http://both.example:{httpserver.port}/") == fetching.NOT_PUBLIC


@pytest.mark.parametrize("status", [204, 206, 400, 401, 403, 404, 429, 500, 503])
def test_other_statuses_are_told_by_number(status, httpserver):
    httpserver.expect_request("/").respond_with_data(b"", status=status)
    assert refused(httpserver.url_for("/"), may_connect=anywhere) == fetching.STATUS.format(status)


def test_what_the_owner_does_not_want_is_not_taken(httpserver):
    httpserver.expect_request("/").respond_with_data(PICTURE, headers={"X-Robots-Tag": "noindex, noai"})
    assert refused(httpserver.url_for("/"), may_connect=anywhere) == fetching.NOT_WANTED


def test_no_more_is_read_than_the_most(httpserver, raw_server):
    httpserver.expect_request("/").respond_with_data(b"x" * 1000)
    assert fetch(httpserver.url_for("/"), may_connect=anywhere, most=1000) == b"x" * 1000
    assert refused(httpserver.url_for("/"), may_connect=anywhere, most=999) == fetching.TOO_LARGE
    sent = 0

    def endless(connection):
        nonlocal sent
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            connection.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")
            sent += 65536

    assert refused(raw_server(endless), may_connect=anywhere, most=2**20) == fetching.TOO_LARGE
    # and what the buffers between hold
    assert sent < 2**25


@pytest.mark.parametrize(
    "begin",
    [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: "],
    ids=["nothing", "headers", "body", "one header"],
)
def test_a_server_that_sends_a_byte_now_and_then_is_left_when_the_time_is_up(begin, raw_server):
    def drip(connection):
        connection.sendall(begin)
        while True:
            time.sleep(0.05)
            connection.sendall(b"x")

    assert refused(raw_server(drip), may_connect=anywhere, seconds=0.4) == fetching.TOO_SLOW


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"no HTTP at all\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nab",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000,
        b"HTTP/1.1 99999 OK\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://[\r\n\r\n",
    ],
)
def test_what_is_no_whole_answer_is_none(answer, raw_server):
    assert refused(raw_server(answer), may_connect=anywhere) == fetching.BROKEN


def test_a_server_without_a_certificate_that_holds_is_not_asked(raw_server):
    asked = []
    # no TLS at all
    address = raw_server(lambda connection: asked.append(connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")))
    assert refused(address.replace("http:", "https:"), may_connect=anywhere, seconds=5) == fetching.UNREACHABLE
    assert ssl.create_default_context().verify_mode == ssl.CERT_REQUIRED


def test_nobody_listens(raw_server):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert refused(f"http://127.0.0.1:{port}/", may_connect=anywhere) == fetching.UNREACHABLE


def test_no_option_of_the_command_line_leads_to_machines_that_are_not_public():
    words = ["data", "prepare", "cc3m", "--src", "a", "--out", "b", "--fetch"]
    assert not any("connect" in name or "public" in name for name in vars(build_parser().parse_args(words)))
