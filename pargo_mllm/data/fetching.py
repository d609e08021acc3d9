"""Downloads from addresses that strangers wrote: from public machines only, so much and so long at most."""

from __future__ import annotations

import http.client
import io
import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Callable
from urllib.parse import quote, urljoin, urlsplit

from pargo_mllm.errors import UserError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# of one answer, bytes; of one request with all its redirects, seconds
MAX_BYTES, MAX_SECONDS = 2**25, 30.0
MAX_REDIRECTS = 5
NO_ADDRESS = "addresses that are none, or not of http or https, or hold a password"
NOT_PUBLIC = "addresses of machines that are not public"
UNREACHABLE = "addresses whose server cannot be reached"
BROKEN = "addresses whose server breaks off or gives no answer in HTTP"
STATUS = "addresses whose server answers with status {}"
REDIRECTS = f"addresses that redirect more than {MAX_REDIRECTS} times, or to nowhere"
TOO_LARGE = "addresses with more bytes than are fetched"
TOO_SLOW = "addresses whose server takes longer than is waited for"
NOT_WANTED = "addresses whose server wants no such use (X-Robots-Tag)"
_HEADERS = {
    "User-Agent": "pargo-data-prepare (pictures that a published data set names)",
    "Accept": "image/*,*/*;q=0.5",
    # what is packed could unpack to any size
    "Accept-Encoding": "identity",
}
_MOVED = (301, 302, 303, 307, 308)
_NOT_WANTED = re.compile(r"\b(noai|noimageai)\b", re.IGNORECASE)
# IPv6 addresses that stand for one of IPv4, and the bits that it begins at from the right
_STANDS_FOR = ((ipaddress.IPv6Network("64:ff9b::/96"), 0), (ipaddress.IPv6Network("2002::/16"), 80))
_CHUNK = 2**16


class FetchError(UserError):
    """What could not be fetched; ``reason`` is the same for all of its kind."""

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason = reason


def is_public(address: Address) -> bool:
    """Whether an address is one of the public network: neither of this machine, nor of a private network, nor reserved.

    One of IPv6 that stands for one of IPv4 (mapped, NAT64, 6to4) is what it stands for.
    """
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        for network, shift in _STANDS_FOR:
            if address in network:
                return is_public(ipaddress.IPv4Address((int(address) >> shift) & 0xFFFFFFFF))
        # Teredo's goes through a third machine to another one
        if address.teredo is not None or address.is_site_local:
            return False
    refused = address.is_private or address.is_loopback or address.is_link_local or address.is_reserved
    return address.is_global and not (refused or address.is_multicast or address.is_unspecified)


def fetch(
    address: str,
    *,
    may_connect: Callable[[Address], bool] = is_public,
    seconds: float = MAX_SECONDS,
    most: int = MAX_BYTES,
) -> bytes:
    """What lies at an address. Neither cookies nor passwords are sent, and no proxy of the environment is asked.

    A name is resolved once, every address that it has is looked at, and the connection goes to one of these: a name that leads
    elsewhere a moment later leads nowhere. Each redirect is a new address.

    Args:
        may_connect: whether a machine may be spoken to.
        seconds: for everything together but the look-up of names, which takes as long as the system lets it.
        most: bytes that are read.

    Raises:
        FetchError: if there is nothing to be had.
    """
    deadline = time.monotonic() + seconds
    for _ in range(1 + MAX_REDIRECTS):
        try:
            told = _ask(address, may_connect, deadline, most)
        except FetchError:
            raise
        except TimeoutError as error:
            raise FetchError(TOO_SLOW, f"{address}: it took longer than {seconds:g} seconds") from error
        except (http.client.HTTPException, OSError, ValueError) as error:
            raise FetchError(BROKEN, f"{address}: {error}") from error
        if isinstance(told, bytes):
            return told
        address = told
    raise FetchError(REDIRECTS, f"{address}: redirected more than {MAX_REDIRECTS} times")


def _ask(address: str, may_connect: Callable[[Address], bool], deadline: float, most: int) -> bytes | str:
    """The content, or the address that it moved to."""
    is_secure, host, port, path = _parts(address)
    with _connected(address, host, port, may_connect, deadline) as plain:
        stream = _secured(plain, host, address, deadline) if is_secure else plain
        with stream:
            asked = http.client.HTTPConnection(host, port)
            asked.sock = _Timed(stream, deadline)  # type: ignore[assignment]
            asked.request("GET", path, headers={**_HEADERS, "Host": _host_header(host, port, is_secure), "Connection": "close"})
            answer = asked.getresponse()
            if answer.status in _MOVED:
                moved = answer.getheader("Location")
                if not moved:
                    raise FetchError(REDIRECTS, f"{address}: it moved, and does not say where to")
                return urljoin(address, moved)
            if answer.status != 200:
                raise FetchError(STATUS.format(answer.status), f"{address}: status {answer.status}")
            if _NOT_WANTED.search(answer.getheader("X-Robots-Tag") or ""):
                raise FetchError(NOT_WANTED, f"{address}: X-Robots-Tag forbids it")
            return _body(answer, address, most)


def _body(answer: http.client.HTTPResponse, address: str, most: int) -> bytes:
    read = io.BytesIO()
    while chunk := answer.read(min(_CHUNK, most + 1 - read.tell())):
        read.write(chunk)
        if read.tell() > most:
            raise FetchError(TOO_LARGE, f"{address}: more than {most:,} bytes")
    if answer.length:
        raise FetchError(BROKEN, f"{address}: it breaks off {answer.length:,} bytes before its end")
    return read.getvalue()


def _parts(address: str) -> tuple[bool, str, int, str]:
    """(whether it is https, host, port, path with query)."""
    try:
        parts = urlsplit(address.strip())
        host, port = parts.hostname or "", parts.port
        host = host if ":" in host else host.rstrip(".").encode("idna").decode("ascii")
    except ValueError as error:
        raise FetchError(NO_ADDRESS, f"{address!r}: {error}") from error
    is_usable = parts.scheme in ("http", "https") and host and port != 0
    # a name or password would be sent to whoever the set's author named
    if not is_usable or "@" in parts.netloc or not host.isprintable() or " " in host:
        raise FetchError(NO_ADDRESS, f"{address!r} is no address that is fetched")
    is_secure = parts.scheme == "https"
    kept = "/%:=&?~+!$,;'@()*[]"
    path = quote(parts.path or "/", safe=kept) + (f"?{quote(parts.query, safe=kept)}" if parts.query else "")
    return is_secure, host, port or (443 if is_secure else 80), path


def _host_header(host: str, port: int, is_secure: bool) -> str:
    name = f"[{host}]" if ":" in host else host
    return name if port == (443 if is_secure else 80) else f"{name}:{port}"


def _connected(address: str, host: str, port: int, may_connect: Callable[[Address], bool], deadline: float) -> socket.socket:
    """A connection to one of the addresses of a host, all of which may be spoken to."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    except (OSError, UnicodeError) as error:
        raise FetchError(UNREACHABLE, f"{address}: {error}") from error
    for *_, place in found:
        if not may_connect(ipaddress.ip_address(str(place[0]).partition("%")[0])):
            raise FetchError(NOT_PUBLIC, f"{address}: {place[0]} is no public address")
    problem: OSError | None = None
    for family, kind, protocol, _, place in found:
        opened = socket.socket(family, kind, protocol)
        try:
            opened.settimeout(_left(deadline))
            opened.connect(place)
            return opened
        except OSError as error:
            opened.close()
            problem = error
    if isinstance(problem, TimeoutError):
        raise problem
    raise FetchError(UNREACHABLE, f"{address}: {problem}") from problem


def _secured(plain: socket.socket, host: str, address: str, deadline: float) -> ssl.SSLSocket:
    plain.settimeout(_left(deadline))
    try:
        return ssl.create_default_context().wrap_socket(plain, server_hostname=host)
    except ssl.SSLError as error:
        raise FetchError(UNREACHABLE, f"{address}: {error}") from error


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the time is up")
    return left


class _Timed:
    """A socket as http.client uses one: each wait is for what is left of the time, however little a server sends at a time."""

    def __init__(self, opened: socket.socket, deadline: float):
        self._opened, self._deadline = opened, deadline

    def sendall(self, content: bytes) -> None:
        """Send all of it."""
        self._opened.settimeout(_left(self._deadline))
        self._opened.sendall(content)

    def makefile(self, mode: str) -> io.BufferedReader:
        """What the server says."""
        return io.BufferedReader(_Answer(self._opened, self._deadline))

    def close(self) -> None:
        """Whoever opened the socket closes it, when the answer is read."""


class _Answer(io.RawIOBase):
    def __init__(self, opened: socket.socket, deadline: float):
        self._opened, self._deadline = opened, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        self._opened.settimeout(_left(self._deadline))
        return self._opened.recv_into(buffer)
