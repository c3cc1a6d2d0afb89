import errno
import stat
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from cifar_jax.files.atomic import atomic_path, remove_temporary_files


def names(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_the_file_appears_when_the_block_ends(tmp_path):
    target = tmp_path / "new" / "folder" / "file.txt"
    with atomic_path(target) as temporary:
        temporary.write_text("content")
        assert not target.exists()
        assert temporary.parent == target.parent and temporary.name.startswith(".")
    assert target.read_text() == "content"
    assert names(tmp_path) == ["file.txt"]


def test_an_error_leaves_the_old_file_and_no_temporary_one(tmp_path):
    target = tmp_path / "file.txt"
    target.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert target.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_writers_that_look_at_the_suffix_keep_their_name(tmp_path):
    with atomic_path(tmp_path / "arrays.npz") as temporary:
        np.savez(temporary, a=np.arange(3))
    np.testing.assert_array_equal(np.load(tmp_path / "arrays.npz")["a"], [0, 1, 2])


def test_the_mode_is_that_of_any_new_file(tmp_path):
    (tmp_path / "plain").touch()
    with atomic_path(tmp_path / "weights.safetensors") as temporary:
        save_file({"a": np.zeros(3)}, temporary)
        temporary.chmod(0o600)
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "weights.safetensors")}
    assert len(modes) == 1


def test_a_file_in_place_of_the_folder_is_an_error_before_any_work(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError), atomic_path(tmp_path / "file" / "below"):
        pytest.fail("the block must not run")


def test_the_next_writer_removes_what_a_killed_process_has_left(tmp_path):
    target, other = tmp_path / "figure.png", tmp_path / "another.figure.png"
    program = f"""
import os
from pathlib import Path
from cifar_jax.files.atomic import atomic_path
with atomic_path(Path({str(target)!r})), atomic_path(Path({str(other)!r})):
    os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", program])
    assert len(names(tmp_path)) == 2
    with atomic_path(target) as running:  # a process that writes the same file at the same time
        running.rename(running.with_name(".1.figure.png"))
        with atomic_path(target):
            assert (tmp_path / ".1.figure.png").exists()
        running.with_name(".1.figure.png").rename(running)
    (left,) = set(names(tmp_path)) - {"figure.png"}
    assert left.endswith(".another.figure.png")
    with atomic_path(other):
        pass
    assert names(tmp_path) == ["another.figure.png", "figure.png"]


def test_temporary_files_are_removed_before_the_process_ends_at_once(tmp_path):
    with pytest.raises(OSError), atomic_path(tmp_path / "file.txt"):
        remove_temporary_files()
        assert names(tmp_path) == []


def test_a_failed_write_names_the_file(tmp_path):
    with pytest.raises(OSError) as caught, atomic_path(tmp_path / "file.txt"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(tmp_path / "file.txt")


def test_a_folder_in_place_of_the_file_is_named(tmp_path):
    (tmp_path / "file.txt").mkdir()
    with pytest.raises(OSError) as caught, atomic_path(tmp_path / "file.txt") as temporary:
        temporary.write_text("content")
    assert str(caught.value) == f"[Errno {errno.EISDIR}] Is a directory: '{tmp_path / 'file.txt'}'"
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]
