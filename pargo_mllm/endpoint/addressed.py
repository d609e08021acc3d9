"""An endpoint's address, its key, and how patiently it is asked."""

from __future__ import annotations

import base64
import os
import re
from pathlib import Path
from typing import Any

from pargo_mllm.endpoint.request import KEY_VARIABLE, EndpointError, Request


class Addressed:
    """One model at one address; see :class:`pargo_mllm.endpoint.client.Endpoint`."""

    def __init__(
        self,
        url: str,
        model: str,
        cache: Path,
        *,
        concurrency: int = 8,
        attempts: int = 6,
        timeout: float = 120.0,
        back_off: float = 1.0,
    ):
        try:
            import httpx
        except ModuleNotFoundError:
            raise EndpointError("asking an endpoint needs httpx: pip install 'pargo[eval]'") from None
        try:
            address = httpx.URL(url)
        except httpx.InvalidURL:
            raise EndpointError("the endpoint's address is no URL; one looks like http://localhost:8000/v1.") from None
        path = address.path.rstrip("/")
        self.url = address.copy_with(path=path if path.endswith("/chat/completions") else f"{path}/chat/completions")
        # without what may be secret
        self.name = str(address.copy_with(userinfo=b"", query=None, fragment=None))
        if address.scheme not in ("http", "https") or not address.host or (address.port or 0) > 65535:
            raise EndpointError(f"{self.name} is no address of an endpoint; one looks like http://localhost:8000/v1.")
        if address.userinfo:
            raise EndpointError(f"{self.name}: name and password do not belong into the address; {KEY_VARIABLE} holds the key.")
        self._key = os.environ.get(KEY_VARIABLE, "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise EndpointError(f"{KEY_VARIABLE} holds characters that no API key has; set it again.")
        self._said_back = _pattern(self._key)
        self.model, self.cache = model, cache
        self.concurrency, self.attempts, self.timeout, self.back_off = concurrency, attempts, timeout, back_off

    def headers(self) -> dict[str, str]:
        """Of a request."""
        return {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {})

    def without_key(self, text: str) -> str:
        """A text of the endpoint's, which may have the key in it: as it is, with escapes of JSON or of an address, or as
        base64. Short words that local servers are given, EMPTY, are none.
        """
        return self._said_back.sub("…", text) if len(self._key) >= 8 else text

    def body(self, request: Request) -> dict[str, Any]:
        """What is sent."""
        return {"model": self.model, "messages": list(request.messages), **request.parameters}


def _pattern(key: str) -> re.Pattern[str]:
    """Every way in which a key may be said back."""

    def spelled(one: str) -> str:
        bare = rf"\\?{re.escape(one)}" if one in '"/\\' else re.escape(one)
        return rf"(?:{bare}|\\+u00(?i:{ord(one):02x})|%(?i:{ord(one):02x}))"

    plain = base64.b64encode(key.encode()).decode().rstrip("=")
    others = {plain, plain.translate(str.maketrans("+/", "-_"))}
    return re.compile("|".join(["".join(map(spelled, key)), *map(re.escape, sorted(others))]))
