"""The context of RO-Crate 1.1 for the crate's validator, so that it needs no network.

A crate names its context by address, and the validator reads it there, or from its own cache of what it read before.
Beside this module lies the context as its authors published it (CC0); :func:`cache` makes a cache that has it.
"""

from __future__ import annotations

import io
from pathlib import Path

import requests
from requests.adapters import HTTPAdapter
from requests_cache import CachedSession
from urllib3 import HTTPResponse

ADDRESS = "https://w3id.org/ro/crate/1.1/context"
FILE = Path(__file__).with_name("ro-crate-1.1-context.json")


class _Shelf(HTTPAdapter):
    """Answers with the file what would go to the network."""

    def send(self, request: requests.PreparedRequest, *_: object, **__: object) -> requests.Response:
        body = io.BytesIO(FILE.read_bytes())
        headers = {"Content-Type": "application/ld+json"}
        return self.build_response(
            request, HTTPResponse(body=body, headers=headers, status=200, preload_content=False)
        )


def cache(folder: Path) -> Path:
    """Write the cache into ``folder``; returns what ``rocrate-validator validate --offline --cache-path`` takes."""
    path = folder / "contexts"
    with CachedSession(str(path), backend="sqlite", expire_after=-1) as session:
        session.mount(ADDRESS, _Shelf())
        session.get(ADDRESS, timeout=60).raise_for_status()
    return path
