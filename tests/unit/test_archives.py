"""Hostile and damaged ZIPs: each bad member has its reason, and its good neighbours are read."""

from __future__ import annotations

import io
import random
import stat
import struct
import zipfile
import zlib

import pytest

from vocabulary.reasons import Reason
from web.intake.archives import FREE_BYTES, ArchiveRefused, Limits, is_unsafe, open_members

LIMITS = Limits(members=50, total_bytes=64 << 20, member_bytes=32 << 20, ratio=100)


def read(data: bytes, limits: Limits = LIMITS) -> dict[str, bytes | Reason]:
    """Every member's bytes, or why it was refused."""
    found: dict[str, bytes | Reason] = {}
    for member in open_members(io.BytesIO(data), limits):
        if member.reader is None:
            assert member.reason is not None
            found[member.path] = member.reason
            continue
        try:
            pieces = []
            while piece := member.reader.read(1 << 16):
                pieces.append(piece)
            found[member.path] = b"".join(pieces)
        except ArchiveRefused as refused:
            found[member.path] = refused.reason
    return found


def archive(*members: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, data in members:
            file.writestr(name, data)
    return buffer.getvalue()


def refused(data: bytes, limits: Limits = LIMITS) -> Reason:
    with pytest.raises(ArchiveRefused) as caught:
        read(data, limits)
    return caught.value.reason


def test_folders_and_litter_are_left_out() -> None:
    data = archive(
        ("a/", b""),
        ("a/1.png", b"one"),
        ("__MACOSX/a/._1.png", b"x"),
        ("a/.DS_Store", b"x"),
        ("a/Thumbs.db", b"x"),
        ("a\\2.png", b"two"),
    )
    assert read(data) == {"a/1.png": b"one", "a/2.png": b"two"}


@pytest.mark.parametrize(
    "path",
    ["../x.png", "a/../../x.png", "/etc/passwd", "C:/x.png", "c:x", "", "a\nb.png", "a\x7fb", "x" * 2000],
)
def test_paths_that_lead_outside_are_unsafe(path: str) -> None:
    assert is_unsafe(path)


@pytest.mark.parametrize("path", ["a/b.png", "..hidden", "a/.../b", "Röntgen/ÄÖ 1.dcm", "x" * 200])
def test_ordinary_paths_are_safe(path: str) -> None:
    assert not is_unsafe(path)


def test_an_unsafe_member_does_not_harm_its_neighbour() -> None:
    data = archive(("../../evil.png", b"evil"), ("good.png", b"good"), ("..\\worse.png", b"evil"))
    assert read(data) == {
        "../../evil.png": Reason.ARCHIVE_UNSAFE_PATH,
        "good.png": b"good",
        "../worse.png": Reason.ARCHIVE_UNSAFE_PATH,
    }


def test_links_and_devices_are_refused() -> None:
    link = zipfile.ZipInfo("link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    assert read(archive((link, b"/etc/passwd"), ("good.png", b"good"))) == {
        "link.png": Reason.ARCHIVE_LINK,
        "good.png": b"good",
    }


def test_an_encrypted_member_is_refused_by_its_flag() -> None:
    data = bytearray(archive(("secret.png", b"secret"), ("good.png", b"good")))
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + at] |= 1
    assert read(bytes(data)) == {"secret.png": Reason.ARCHIVE_ENCRYPTED, "good.png": b"good"}


def test_a_damaged_member_is_refused_and_the_next_is_read() -> None:
    data = bytearray(
        archive(("bad.png", b"0123456789" * 50), ("good.png", b"good"), method=zipfile.ZIP_STORED)
    )
    data[data.index(b"0123456789") + 5] ^= 0xFF
    assert read(bytes(data)) == {"bad.png": Reason.ARCHIVE_CORRUPT, "good.png": b"good"}


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_packing_that_unpacks_without_bound_is_not_opened(method: int) -> None:
    assert read(archive(("a.png", b"x" * 100), method=method)) == {"a.png": Reason.ARCHIVE_UNSUPPORTED}


def test_a_bomb_stops_at_the_ratio() -> None:
    data = archive(("bomb.png", b"\0" * (FREE_BYTES + (1 << 20))), ("good.png", b"good"))
    assert len(data) < 1 << 17
    assert read(data) == {"bomb.png": Reason.ARCHIVE_BOMB, "good.png": b"good"}


def test_a_member_beyond_the_size_of_a_file_is_refused() -> None:
    limits = Limits(members=50, total_bytes=64 << 20, member_bytes=1000, ratio=100)
    assert read(archive(("a.png", b"x" * 1001), ("b.png", b"y" * 1000)), limits) == {
        "a.png": Reason.FILE_TOO_LARGE,
        "b.png": b"y" * 1000,
    }


def test_the_sum_of_real_bytes_is_bounded() -> None:
    limits = Limits(members=50, total_bytes=2500, member_bytes=1 << 20, ratio=100)
    found = read(archive(*((f"{i}.png", bytes([i]) * 1000) for i in range(4))), limits)
    assert [value if isinstance(value, Reason) else len(value) for value in found.values()] == [
        1000,
        1000,
        Reason.ARCHIVE_BOMB,
        Reason.ARCHIVE_BOMB,
    ]


def test_a_header_that_lies_about_the_size_changes_nothing() -> None:
    real = b"\0" * (FREE_BYTES + (1 << 20))
    data = bytearray(archive(("bomb.png", real)))
    at = data.index(b"PK\x01\x02")
    struct.pack_into("<L", data, at + 24, 100)  # the central directory says that it unpacks to 100 bytes
    assert read(bytes(data)) == {"bomb.png": Reason.ARCHIVE_CORRUPT}


def test_overlapping_members_are_a_bomb() -> None:
    one = archive(("a.png", b"x" * 1000), method=zipfile.ZIP_STORED)
    body, directory = (
        one[: one.index(b"PK\x01\x02")],
        one[one.index(b"PK\x01\x02") : one.index(b"PK\x05\x06")],
    )
    entries = directory + directory.replace(b"a.png", b"b.png")
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 2, 2, len(entries), len(body), 0)
    assert refused(body + entries + end) == Reason.ARCHIVE_BOMB


def test_too_many_members_are_refused_before_they_are_loaded() -> None:
    limits = Limits(members=3, total_bytes=1 << 20, member_bytes=1 << 20, ratio=100)
    data = bytearray(archive(*((f"{i}.png", b"x") for i in range(4))))
    assert refused(bytes(data), limits) == Reason.ARCHIVE_TOO_MANY
    struct.pack_into("<HH", data, data.rindex(b"PK\x05\x06") + 8, 1, 1)  # it says that it has one
    assert refused(bytes(data), limits) == Reason.ARCHIVE_TOO_MANY


@pytest.mark.parametrize(
    "data",
    [b"PK\x03\x04 and nothing else", archive(("a.png", b"x" * 100))[:-30], b"PK\x05\x06", b""],
    ids=["a start", "no directory", "an end", "nothing"],  # the bytes hold the time of day
)
def test_what_only_begins_like_an_archive_is_corrupt(data: bytes) -> None:
    assert refused(data) == Reason.ARCHIVE_CORRUPT


def test_an_empty_archive_has_no_members() -> None:
    assert read(archive()) == {}


def test_bytes_before_the_archive_are_no_harm() -> None:
    assert read(b"#!/bin/sh\nexit\n" + archive(("a.png", b"x"))) == {"a.png": b"x"}


def test_names_are_read_as_they_were_meant() -> None:
    utf8_without_flag = archive(("xxxxxxxx.png", b"1")).replace(b"xxxxxxxx", "Röntgen".encode())
    assert list(read(utf8_without_flag)) == ["Röntgen.png"]
    old_dos = archive(("xx.png", b"1")).replace(b"xx", b"\x84\x94")
    assert list(read(old_dos)) == ["äö.png"]
    assert list(read(archive(("日本.png", b"1")))) == ["日本.png"]


def test_random_damage_never_escapes() -> None:
    data = archive(*((f"{i}.png", zlib.compress(bytes([i]) * 300)) for i in range(5)))
    dice = random.Random(7)
    for _ in range(300):
        broken = bytearray(data)
        for _ in range(dice.randint(1, 6)):
            broken[dice.randrange(len(broken))] = dice.randrange(256)
        try:
            read(bytes(broken[: dice.randint(30, len(broken))] if dice.random() < 0.3 else broken))
        except ArchiveRefused:
            continue


@pytest.mark.parametrize("where", ["directory", "local header"])
def test_a_backslash_in_one_of_a_names_two_places_is_no_harm(where: str) -> None:
    data = archive(("a/1.png", b"one"), ("a/2.png", b"two"))
    first, last = data.index(b"a/1.png"), data.rindex(b"a/1.png")
    at = last if where == "directory" else first
    odd = data[:at] + b"a\\1.png" + data[at + 7 :]
    assert read(odd) == {"a/1.png": b"one", "a/2.png": b"two"}


def test_a_bad_extra_field_condemns_neither_the_member_nor_the_archive() -> None:
    info = zipfile.ZipInfo("1.png")
    info.extra = struct.pack("<HH", 0x5455, 5) + b"\1abcd"
    data = bytearray(archive((info, b"one"), ("2.png", b"two")))
    at = data.rindex(struct.pack("<HH", 0x5455, 5))
    data[at : at + 4] = struct.pack("<HH", 0x5455, 500)
    with pytest.raises(zipfile.BadZipFile):
        zipfile.ZipFile(io.BytesIO(data))
    assert read(bytes(data)) == {"1.png": b"one", "2.png": b"two"}


def test_sizes_beyond_32_bits_are_read_from_their_extra_field() -> None:
    data = bytearray(archive(("1.png", b"one" * 99)))
    at = data.index(b"PK\1\2")
    packed, size = struct.unpack_from("<LL", data, at + 20)
    extra = struct.pack("<HHQQ", 1, 16, size, packed)
    data[at + 20 : at + 28] = b"\xff" * 8
    struct.pack_into("<H", data, at + 30, len(extra))
    data[at + 46 + 5 : at + 46 + 5] = extra
    end = data.rindex(b"PK\5\6")
    struct.pack_into("<L", data, end + 12, end - at)
    assert read(bytes(data)) == {"1.png": b"one" * 99}


def test_a_member_whose_bytes_are_not_those_of_its_checksum_is_refused() -> None:
    data = bytearray(archive(("1.png", b"one"), ("2.png", b"two"), method=zipfile.ZIP_STORED))
    data[data.index(b"one")] ^= 1
    assert read(bytes(data)) == {"1.png": Reason.ARCHIVE_CORRUPT, "2.png": b"two"}
