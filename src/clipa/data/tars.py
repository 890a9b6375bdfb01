"""The members of an open tar, in sequence: tarfile's, with a shorter way for the headers that shards are made of.

tarfile takes 30 µs for a header, and img2dataset writes two for each of a sample's three members: as long as decoding
a small image takes. So headers of plain files, as tarfile and GNU tar write them, are read here, and with them the pax
records that say nothing but a time. For every other block (and every damaged one) tarfile is asked.
"""

from __future__ import annotations

import re
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import closing
from functools import lru_cache
from typing import Any, NamedTuple

_BLOCK = tarfile.BLOCKSIZE
_END = 2 * _BLOCK  # zeros that end a whole archive
_BUFFER = 1 << 20
# Mode, owner and group; size; time; checksum; a file's or a pax record's type. Then no link.
_FIELDS = re.compile(rb"(?:[0-7]{7}\0){3}([0-7]{11})\0[0-7]{11}\0([0-7]{6})\0 ([0x])\0")
_DEVICE = re.compile(rb"(?:[0-7]{7}\0|\0{8}){2}\0")  # then no prefix of the name
_NAME = re.compile(rb"[\x01-\x7f]+")
_TIME = re.compile(rb"((\d{1,3}) mtime=[0-9.]+\n)\0*")
_ZEROS = bytes(_BLOCK)


class Member(NamedTuple):
    """A member's name; whether it is a plain file; where its bytes lie."""

    name: str
    plain: bool
    place: int
    size: int


def members(file: Any) -> Iterator[Member]:
    """All members of the tar in the binary ``file``, which may be read from in between.

    What is no whole tar raises some Exception: tarfile's, OSError, ValueError, or EOFError where the end mark should be
    (tarfile takes a damaged header for the end).
    """
    # A name that is no UTF-8 must still be one that can be written down.
    with closing(tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="replace")) as archive:
        member = archive.next()  # tarfile has read this one already
        while member is not None:
            yield Member(
                member.name, member.isreg() and not member.issparse(), member.offset_data, member.size
            )
            archive.members.clear()  # it would keep a whole shard's
            # A record for the whole archive may change every member.
            while not archive.pax_headers and (short := _plain_file(file, archive.offset)) is not None:
                archive.offset = short.place + -(-short.size // _BLOCK) * _BLOCK
                yield short
            member = archive.next()
        _check_end(file, archive.offset)


def _plain_file(file: Any, offset: int) -> Member | None:
    """The plain file whose header is at ``offset``, or after a pax record of a time; None: ask tarfile."""
    file.seek(offset)
    blocks = file.read(3 * _BLOCK)
    pax = blocks[156:157] == b"x"
    found = (_pax_header if pax else _header)(blocks[:_BLOCK])
    if pax and found is not None:
        record = _TIME.fullmatch(blocks, _BLOCK, 2 * _BLOCK)
        if record is None or not int(record[2]) == found[2] == record.end(1) - _BLOCK:
            return None
        offset += 2 * _BLOCK
        found = _header(blocks[2 * _BLOCK :])
    if found is None or found[1] != b"0":
        return None
    return Member(found[0].decode("ascii"), True, offset + _BLOCK, found[2])


def _header(block: bytes) -> tuple[bytes, bytes, int] | None:
    """Name, type and size in a header of a plain file or a pax record; None for any other block."""
    fields, name = _FIELDS.match(block, 100), _NAME.match(block, 0, 100)
    if fields is None or name is None or _DEVICE.match(block, 329) is None:
        return None
    if len(name[0]) < 100 and block[len(name[0])] != 0:
        return None
    # Adler-32 begins with one plus the sum of all bytes. The sum must be below 65,521, hence the zeros.
    if block[157:257] != _ZEROS[:100] or block[345:] != _ZEROS[:167]:
        return None
    # The checksum counts its own eight bytes as spaces.
    total = (zlib.adler32(block) & 0xFFFF) - 1 - sum(block[148:156]) + 8 * ord(" ")
    return (name[0], fields[3], int(fields[1], 8)) if total == int(fields[2], 8) else None


# One writer's differ in nothing but their records' lengths.
_pax_header = lru_cache(maxsize=16)(_header)


def _check_end(file: Any, offset: int) -> None:
    """Raise EOFError unless the file has, from ``offset`` on, its end mark and nothing after it."""
    file.seek(offset)
    block = file.read(_END)
    if len(block) < _END or any(block):
        raise EOFError(f"no end mark at byte {offset}, but a damaged header or a cut")
    while block := file.read(_BUFFER):
        if any(block):
            raise EOFError(f"more after the end mark at byte {offset}")
