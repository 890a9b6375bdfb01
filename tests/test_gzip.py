"""Packed pages and archives have the same bytes whichever Python writes them."""

import gzip

import pytest

from clipa.files import gzipped
from clipa.render.numbers_rows import pack

SYSTEM = 9
"""The byte of a gzip header that names the system; the one thing in which Pythons differ."""


@pytest.mark.parametrize("system", [3, 255], ids=["Python 3.11 and 3.12", "Python 3.13"])
def test_every_python_packs_to_the_same_bytes(monkeypatch, system):
    plain, expected = gzip.compress, (gzipped(b"words" * 99), pack({"a": [1, 2]}))

    def compress(content, *words, **names):
        packed = bytearray(plain(content, *words, **names))
        packed[SYSTEM] = system
        return bytes(packed)

    monkeypatch.setattr(gzip, "compress", compress)
    assert (gzipped(b"words" * 99), pack({"a": [1, 2]})) == expected
    assert gzip.decompress(expected[0]) == b"words" * 99
