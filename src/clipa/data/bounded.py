"""Pictures from anywhere on the web: an urllib opener whose answers are bounded in bytes and in time.

img2dataset calls ``urllib.request.urlopen`` and reads whatever comes. Its time limit is one of silence: a server that
sends a byte now and then holds a thread for ever, an endless answer fills the memory, and ``file:`` links read the
machine's own files. The opener here bounds the bytes and seconds of every answer, headers included; only http and https
are opened.
"""

from __future__ import annotations

import io
import time
import urllib.request
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from typing import Any

BYTES = 1 << 26
"""Of one answer; as large as an image's member may be (clipa.data.samples)."""
SECONDS = 30.0
"""For one answer, from the end of the question on. 10 seconds of silence end it as before."""


class TooMuch(OSError):
    """An answer has more bytes, or takes longer, than is allowed."""


class _Counted(io.RawIOBase):
    """The bytes of a socket, so many and until then."""

    def __init__(self, raw: Any, socket: Any) -> None:
        self._raw, self._socket = raw, socket
        self._left, self._ends = BYTES, time.monotonic() + SECONDS

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        remaining = self._ends - time.monotonic()
        if remaining <= 0:
            raise TooMuch(f"the answer took more than {SECONDS:.0f} s")
        silence = self._socket.gettimeout()
        self._socket.settimeout(remaining if silence is None else min(silence, remaining))
        count = self._raw.readinto(buffer)
        self._socket.settimeout(silence)
        self._left -= count or 0
        if self._left < 0:
            raise TooMuch(f"the answer has more than {BYTES} bytes")
        return count

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


class _Answer(HTTPResponse):
    def __init__(self, sock: Any, *others: Any, **named: Any) -> None:
        super().__init__(sock, *others, **named)
        self.fp = io.BufferedReader(_Counted(self.fp.detach(), sock))


class _Connection(HTTPConnection):
    response_class = _Answer


class _SecureConnection(HTTPSConnection):
    response_class = _Answer


class _Http(urllib.request.HTTPHandler):
    def http_open(self, request: Any) -> Any:
        return self.do_open(_Connection, request)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, request: Any) -> Any:
        return self.do_open(_SecureConnection, request)


def install() -> None:
    """Have ``urllib.request.urlopen`` of this process open http and https only, within the bounds above."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
        _Http,
        _Https,
    ):
        opener.add_handler(handler())
    urllib.request.install_opener(opener)
