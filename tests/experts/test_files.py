"""A file is replaced whole, with the permissions asked for, and a failure leaves nothing behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from experts.files import stage_file, write_atomic


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_content_is_replaced_and_no_temporary_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_atomic(path, b"old")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_follows_the_umask(tmp_path: Path) -> None:
    previous = os.umask(0o027)
    try:
        write_atomic(tmp_path / "file.txt", b"x")
    finally:
        os.umask(previous)
    assert mode_of(tmp_path / "file.txt") == 0o640


def test_the_mode_of_an_existing_file_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_bytes(b"old")
    path.chmod(0o600)
    write_atomic(path, b"new")
    assert mode_of(path) == 0o600


def test_a_given_mode_replaces_that_of_an_existing_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_bytes(b"old")
    path.chmod(0o644)
    write_atomic(path, b"secret", 0o600)
    assert mode_of(path) == 0o600


def test_a_failed_replacement_leaves_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    with pytest.raises(OSError, match="directory"):
        write_atomic(path, b"x")
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(descriptor: int, mode: int) -> None:
        raise PermissionError("not allowed")

    monkeypatch.setattr(os, "fchmod", fails)
    with pytest.raises(PermissionError):
        write_atomic(tmp_path / "file.txt", b"x", 0o600)
    assert list(tmp_path.iterdir()) == []


def test_a_staged_file_lies_beside_its_target(tmp_path: Path) -> None:
    staged = stage_file(tmp_path / "file.txt", b"x")
    assert staged.parent == tmp_path
    assert staged.read_bytes() == b"x"
    assert not (tmp_path / "file.txt").exists()
