import os
import socket

import pytest

from cifar_jax.data.listing import MAX_FILE_BYTES, list_folder, version
from cifar_jax.errors import DataError


def _write(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def test_files_and_folders_have_relative_names(tmp_path):
    _write(tmp_path, "a/b/1", "2", ".hidden", "a/._1", "__MACOSX/3")
    (tmp_path / "empty").mkdir()
    listing = list_folder(tmp_path)
    assert set(listing.files) == {"a/b/1", "2"} and listing.folders == {"a", "a/b", "empty"}
    assert sorted(listing.hidden) == [".hidden", "__MACOSX", "a/._1"]
    assert listing.read("a/b/1") == b"a/b/1"


def test_links_to_files_and_folders_are_followed(tmp_path):
    _write(tmp_path, "outside/cat/1", "outside/2", "root/3")
    for name, target in (("cat", "outside/cat"), ("2", "outside/2"), ("also 3", "root/3")):
        (tmp_path / "root" / name).symlink_to(tmp_path / target)
    (tmp_path / "link").symlink_to("root")
    for root in (tmp_path / "root", tmp_path / "link"):
        listing = list_folder(root)
        assert {name: listing.read(name) for name in listing.files} == {
            "cat/1": b"outside/cat/1",
            "2": b"outside/2",
            "3": b"root/3",
            "also 3": b"root/3",
        }
        assert listing.files["3"].real == listing.files["also 3"].real
        assert listing.files["2"].version == version(os.stat(tmp_path / "outside" / "2"))


@pytest.mark.parametrize("target", ["..", ".", "../..", "../../..", "/", "b"])
def test_links_to_folders_around_them_are_not_followed(tmp_path, target):
    _write(tmp_path, "root/a/1")
    (tmp_path / "root" / "a" / "loop").symlink_to(target)
    (tmp_path / "root" / "a" / "b").symlink_to("loop")
    listing = list_folder(tmp_path / "root")
    assert set(listing.files) - {"a/loop", "a/b"} == {"a/1"}
    assert sorted([*listing.loops, *(set(listing.files) - {"a/1"})]) == ["a/b", "a/loop"]


def test_folders_that_link_to_each_other_end(tmp_path):
    for name, other in (("a", "b"), ("b", "a")):
        _write(tmp_path, f"{name}/1")
        (tmp_path / name / "other").symlink_to(f"../{other}")
    listing = list_folder(tmp_path)
    assert set(listing.files) == {"a/1", "a/other/1", "b/1", "b/other/1"}
    assert sorted(listing.loops) == ["a/other/other", "b/other/other"]


def test_links_that_double_at_each_level_are_refused(tmp_path):
    for level in range(30):
        (tmp_path / f"{level}").mkdir()
        for name in "xy":
            (tmp_path / f"{level}" / name).symlink_to(f"../{level + 1}")
    with pytest.raises(DataError, match=r"one of over 16 names of .*; remove links"):
        list_folder(tmp_path)


def test_what_is_no_file_is_an_error_when_it_is_read(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "gone").symlink_to("nowhere")
    (tmp_path / "self").symlink_to("self")
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        listing = list_folder(tmp_path)
    assert len(listing.files) == 6
    for name, message in (
        ("fifo", "a device, socket or FIFO, not a file"),
        ("zero", "a device, socket or FIFO, not a file"),
        ("socket", "a device, socket or FIFO, not a file"),
        ("gone", "a link that leads to no file"),
        ("self", "a link that leads to no file"),
        ("sparse", "268,435,457 bytes; images and texts of up to"),
    ):
        with pytest.raises(DataError, match=f"{tmp_path}/{name}: {message}"):
            listing.read(name)


def test_a_file_that_vanishes_is_named(tmp_path):
    _write(tmp_path, "a/1")
    listing = list_folder(tmp_path)
    (tmp_path / "a" / "1").unlink()
    with pytest.raises(DataError, match=rf"{tmp_path}/a/1: cannot be read \(No such file or directory\)"):
        listing.read("a/1")


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    _write(tmp_path, "a/b/1")
    scan = os.scandir

    def denied(folder):
        if folder.endswith("/b"):
            raise PermissionError(13, "Permission denied")
        return scan(folder)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(
        DataError, match=rf"{tmp_path}/a/b: cannot be read \(Permission denied\); check its permissions"
    ):
        list_folder(tmp_path)


def test_folders_nested_too_deep_are_refused(tmp_path):
    (tmp_path / "/".join("a" * 70)).mkdir(parents=True)
    with pytest.raises(DataError, match="more than 64 folders deep"):
        list_folder(tmp_path)


def test_names_that_are_not_utf8_can_be_read(tmp_path):
    with open(os.fsencode(tmp_path) + b"/\xff", "wb") as file:
        file.write(b"1")
    listing = list_folder(tmp_path)
    assert [listing.read(name) for name in listing.files] == [b"1"]
