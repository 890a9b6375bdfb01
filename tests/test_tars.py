"""The short way through a tar gives what tarfile gives, for every format, damage and cut."""

import io
import tarfile
from unittest.mock import patch

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from clipa.data import tars

FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
NAMES = st.sampled_from(
    [
        "0.jpg",
        "0.json",
        "a/b.txt",
        "é.txt",
        "n" * 100,
        "n" * 101,
        f"{'d' * 60}/{'n' * 60}",
        "__meta__/x",
        "x/",
    ]
)


def tar(kind: int, names: list[str], time: float, types: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as archive:
        for number, name in enumerate(names):
            member = tarfile.TarInfo(name)
            member.size, member.mtime = number * 300, time
            member.type = types[number : number + 1] or tarfile.REGTYPE
            if not member.isreg():
                member.size = 0
            archive.addfile(member, io.BytesIO(bytes(range(250)) * 10))
    return buffer.getvalue()


def read(content: bytes) -> tuple[list[tars.Member], bool]:
    """The members up to the end, or to whatever is wrong; and whether something is."""
    found = []
    try:
        for member in tars.members(io.BytesIO(content)):
            found.append(member)
    except Exception:
        return found, True
    return found, False


def read_by_tarfile(content: bytes) -> tuple[list[tars.Member], bool]:
    with patch.object(tars, "_plain_file", lambda file, offset: None):
        return read(content)


@given(
    st.sampled_from(FORMATS),
    st.lists(NAMES, min_size=1, max_size=5),
    st.sampled_from([0, 1.7e9, 1.7e9 + 0.25]),
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 511), st.integers(0, 255)), max_size=3),
    st.integers(0, 3000),
)
@settings(max_examples=1500, deadline=None)
@example(tarfile.USTAR_FORMAT, ["0.jpg", "0.txt"], 0, [(1, 156, ord("1"))], 0)
@example(tarfile.PAX_FORMAT, ["0.jpg", "0.txt"], 1.5, [(1, 3, ord("9"))], 0)
def test_damaged_or_not_it_is_read_as_tarfile_reads_it(
    kind: int, names: list[str], time: float, damage: list[tuple[int, int, int]], cut: int
) -> None:
    try:
        content = bytearray(tar(kind, names, time))
    except ValueError:  # a name that this format cannot hold
        return
    for block, place, value in damage:
        if block * 512 + place < len(content):
            content[block * 512 + place] = value
    whole = bytes(content[: len(content) - cut] if cut < 1500 else content)
    assert read(whole) == read_by_tarfile(whole)


@given(st.integers(1, 4), st.integers(100, 511), st.integers(0, 255))
@settings(max_examples=500, deadline=None)
def test_a_header_with_a_right_sum_and_a_strange_field_is_read_as_tarfile_reads_it(
    block: int, place: int, value: int
) -> None:
    content = bytearray(tar(tarfile.USTAR_FORMAT, ["0.jpg", "0.txt", "1.jpg"], 0))
    start = {1: 512, 2: 512, 3: 1536, 4: 1536}[block]
    content[start + place] = value
    content[start + 148 : start + 156] = b" " * 8
    content[start + 148 : start + 156] = b"%06o\0 " % sum(content[start : start + 512])
    assert read(bytes(content)) == read_by_tarfile(bytes(content))


@pytest.mark.parametrize("kind", [b"1", b"2", b"5", b"0", b"7", b"\0"])
def test_every_type_of_member_is_told_apart(kind: bytes) -> None:
    content = tar(tarfile.USTAR_FORMAT, ["a.txt", "b.txt", "c.txt"], 0, b"0" + kind + b"0")
    assert read(content) == read_by_tarfile(content)
    assert [member.plain for member in read(content)[0]] == [True, kind in (b"0", b"7", b"\0"), True]


def test_a_record_for_the_whole_archive_is_heard() -> None:
    buffer = io.BytesIO()
    with tarfile.open(
        fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"path": "other.txt"}
    ) as archive:
        for name in ("a.txt", "b.txt"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    assert read(buffer.getvalue()) == read_by_tarfile(buffer.getvalue())


def test_headers_of_plain_files_are_not_left_to_tarfile() -> None:
    for kind, time in (
        (tarfile.USTAR_FORMAT, 0),
        (tarfile.GNU_FORMAT, 1),
        (tarfile.PAX_FORMAT, 1.7e9 + 0.25),
    ):
        content = tar(kind, ["0.jpg", "0.json", "0.txt"], time)
        with patch.object(tarfile.TarInfo, "frombuf", wraps=tarfile.TarInfo.frombuf) as slow:
            assert len(read(content)[0]) == 3
        # The first member (after a pax record of its time), and the block that ends the archive.
        assert slow.call_count <= 3
