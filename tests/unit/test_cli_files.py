"""What is sent, under which names; when a file has settled; which archives and folder names are trusted."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from pathlib import Path, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.client import TERMINAL, Client, ClientError, UsageProblem, find_server
from cli.download import verify_zip
from cli.local_files import LocalFile, as_text, find_files, groups
from cli.output import shown
from cli.submit import batch_exit_code
from cli.watch import HOLD_SECONDS, Settling, safe_name
from vocabulary.states import TERMINAL_BATCH_STATUSES


def write(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def names(*paths: Path) -> list[str]:
    return [file.name for file in find_files(paths).files]


def test_a_folder_is_searched_and_what_the_system_left_in_it_passed_over(tmp_path: Path) -> None:
    for name in (
        "b.png",
        "a/c.dcm",
        ".DS_Store",
        "Thumbs.db",
        "__MACOSX/x",
        ".git/y",
        "a/.hidden",
        "a/Desktop.ini",
    ):
        write(tmp_path / name)
    assert names(tmp_path) == ["b.png", "a/c.dcm"]


def test_links_that_lead_out_are_left_out_and_said(tmp_path: Path) -> None:
    secret = write(tmp_path / "elsewhere" / "secret.png")
    root = tmp_path / "root"
    write(root / "real.png")
    (root / "out.png").symlink_to(secret)
    (root / "in.png").symlink_to(root / "real.png")
    (root / "folder").symlink_to(secret.parent)
    (root / "dangling.png").symlink_to(root / "nothing.png")
    os.mkfifo(root / "pipe.png")
    found = find_files([root])
    assert [file.name for file in found.files] == ["in.png", "real.png"]
    assert {path.name for path in found.left_out} == {"out.png", "folder", "dangling.png", "pipe.png"}


def test_several_paths_are_named_below_the_folder_that_holds_them_all(tmp_path: Path) -> None:
    one, two = write(tmp_path / "x" / "1" / "a.png"), write(tmp_path / "x" / "2" / "a.png")
    assert names(one) == ["a.png"]
    assert names(one, two) == ["1/a.png", "2/a.png"]
    assert names(one.parent, two.parent) == ["1/a.png", "2/a.png"]
    assert names(one.parent, one) == ["1/a.png"]  # named twice, sent once
    with pytest.raises(UsageProblem):
        find_files([tmp_path / "nothing"])


def test_names_that_are_not_text_become_text(tmp_path: Path) -> None:
    write(Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")))
    assert names(tmp_path) == ["\N{REPLACEMENT CHARACTER}.png"]


def test_names_of_windows_have_forward_slashes_and_are_text() -> None:
    assert as_text(PureWindowsPath(r"Größe\Łódź\hand.png")) == "Größe/Łódź/hand.png"
    assert as_text(PureWindowsPath("a\\half \ud800.png")) == "a/half \N{REPLACEMENT CHARACTER}.png"


@given(st.lists(st.integers(0, 100), max_size=60))
def test_requests_hold_every_file_once_within_the_limits(sizes: list[int]) -> None:
    files = [LocalFile(Path(str(n)), str(n), size, 0) for n, size in enumerate(sizes)]
    cut = list(groups(files, most_files=5, most_bytes=100))
    assert [file for group in cut for file in group] == files
    assert all(len(group) <= 5 and (len(group) == 1 or sum(f.size for f in group) <= 100) for group in cut)


def at(path: str, size: int = 1) -> LocalFile:
    return LocalFile(Path(path), path, size, size)


def test_a_file_is_settled_when_it_stayed_the_same_and_its_folder_is_quiet() -> None:
    settling = Settling(5.0)
    assert settling.settled([at("a/1"), at("b/1")], 0.0) == []
    assert settling.settled([at("a/1"), at("b/1"), at("b/2")], 4.9) == []
    assert settling.settled([at("a/1"), at("b/1"), at("b/2")], 5.0) == [at("a/1")]  # b/2 is still young
    assert settling.settled([at("b/1"), at("b/2", 2)], 9.0) == []  # b/2 grew
    assert settling.settled([at("b/1"), at("b/2", 2)], 14.0) == [at("b/1"), at("b/2", 2)]


def test_a_folder_that_never_comes_to_rest_does_not_hold_its_files_for_ever() -> None:
    settling = Settling(5.0)
    settling.settled([at("a/1"), at("a/2")], 0.0)
    late = 5.0 + HOLD_SECONDS
    assert settling.settled([at("a/1"), at("a/2", 2)], late - 0.1) == []
    assert settling.settled([at("a/1"), at("a/2", 3)], late) == [at("a/1")]


@given(st.text(max_size=120))
def test_an_accession_becomes_a_safe_folder_name(accession: str) -> None:
    name = safe_name(accession)
    assert set(name) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
    assert not name.startswith(".")
    assert len(name) <= 81


def test_folder_names_keep_what_is_harmless() -> None:
    assert safe_name("ACC-2024.001") == "ACC-2024.001"
    assert safe_name("../../etc/passwd") == "etc_passwd"
    assert safe_name("COM1") == "_COM1"
    assert safe_name("///") == ""


def test_a_terminal_sees_no_commands_in_names() -> None:
    assert shown("a\x1b[31mb\n") == "a\\x1b[31mb\\x0a"


def make_zip(path: Path, members: dict[str, bytes], promised: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        hashes = {name: hashlib.sha256(content).hexdigest() for name, content in promised.items()}
        archive.writestr("manifest.json", json.dumps({"members": hashes}))
    return path


def test_results_are_trusted_only_when_every_hash_is_right(tmp_path: Path) -> None:
    good = {"results.csv": b"a", "reports/x.pdf": b"b"}
    verify_zip(make_zip(tmp_path / "good.zip", good, good))
    for wrong in ({**good, "results.csv": b"z"}, {"results.csv": b"a"}, {**good, "more": b""}):
        with pytest.raises(ClientError):
            verify_zip(make_zip(tmp_path / "bad.zip", wrong, good))
    cut = tmp_path / "cut.zip"
    cut.write_bytes((tmp_path / "good.zip").read_bytes()[:-30])
    with pytest.raises(ClientError):
        verify_zip(cut)


def test_the_exit_code_tells_whether_an_image_was_not_read() -> None:
    def batch(**reasons: int) -> dict[str, object]:
        return {
            "status": "done",
            "counts": {"rejected": sum(reasons.values()), "failed": 0, "cancelled": 0},
            "reasons": reasons,
        }

    assert batch_exit_code(batch()) == 0
    assert batch_exit_code(batch(duplicate_in_study=2)) == 0
    assert batch_exit_code(batch(duplicate_in_study=2, truncated=1)) == 1
    assert batch_exit_code({**batch(), "status": "cancelled"}) == 1


def test_the_client_knows_when_a_batch_has_ended() -> None:
    assert {status.value for status in TERMINAL_BATCH_STATUSES} == TERMINAL


def test_the_key_of_a_local_server_goes_to_that_server_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRACTUREAI_HOME", str(tmp_path))
    (tmp_path / "client.json").write_text('{"url": "http://127.0.0.1:8123", "api_key": "k"}')
    assert find_server({}) == ("http://127.0.0.1:8123", "k")
    assert find_server({"FRACTUREAI_URL": "http://127.0.0.1:8123/"}) == ("http://127.0.0.1:8123", "k")
    assert find_server({"FRACTUREAI_URL": "https://hospital.example"}) == ("https://hospital.example", "")
    assert find_server({"FRACTUREAI_API_KEY": "own"}) == ("http://127.0.0.1:8000", "own")


@pytest.mark.parametrize(
    "url", ["ftp://hospital.example", "hospital.example", "http://", "http://h:99999999"]
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(UsageProblem):
        Client(url, "k")
