"""Where the cache is, with and without a home directory that can be written."""

import os

import pytest

from cifar_jax.errors import UsageError
from cifar_jax.files import cache
from cifar_jax.files.cache import cache_root, expanded


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    """A home directory and a folder for temporary files, without a cache."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("CIFAR_JAX_CACHE", raising=False)
    monkeypatch.setattr(cache.tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    cache._temporary_root.cache_clear()


@pytest.fixture
def no_home(monkeypatch):
    """As in a container whose user has no entry in /etc/passwd."""
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    monkeypatch.setattr(cache.Path, "expanduser", lambda path: (_ for _ in ()).throw(RuntimeError("no home")))


def test_the_cache_is_below_the_home_directory_or_where_the_variable_says(monkeypatch, tmp_path):
    assert cache_root() == tmp_path / "home" / ".cache" / "cifar_jax"
    monkeypatch.setenv("CIFAR_JAX_CACHE", "~/elsewhere")
    assert cache_root() == tmp_path / "home" / "elsewhere"
    assert cache_root().is_dir()


def test_a_cache_that_cannot_be_written_moves_to_the_temporary_files_with_one_warning(monkeypatch, tmp_path, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("CIFAR_JAX_CACHE", str(tmp_path / "file" / "cache"))
    root = cache_root()
    assert root == cache_root() == tmp_path / "tmp" / f"cifar_jax-{os.getuid()}"
    assert root.stat().st_mode & 0o777 == 0o700
    (message,) = caplog.messages
    assert message.startswith(f"{tmp_path}/file/cache cannot be created (Not a directory): the cache is {root}; ")


def test_a_read_only_cache_moves_to_the_temporary_files(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(os, "access", lambda *_: False)  # as on a read-only file system; root can write anywhere else
    assert cache_root().parent == tmp_path / "tmp"
    assert "~/.cache/cifar_jax cannot be written" in caplog.text


def test_without_a_home_directory_the_cache_moves_to_the_temporary_files(no_home, monkeypatch, tmp_path, caplog):
    (tmp_path / "tmp" / "cifar_jax-54321").mkdir(mode=0o700)
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    monkeypatch.setattr(cache.Path, "lstat", lambda path: os.stat_result((0o040700, 0, 0, 0, 54321, 0, 0, 0, 0, 0)))
    assert cache_root() == tmp_path / "tmp" / "cifar_jax-54321"
    assert "~/.cache/cifar_jax has no home directory" in caplog.text
    with pytest.raises(UsageError, match="~/run: there is no home directory; write the path without ~"):
        expanded("~/run")


def test_a_temporary_folder_that_others_can_write_is_not_used(no_home, tmp_path):
    folder = tmp_path / "tmp" / "cifar_jax-54321"  # belongs to another user
    folder.mkdir(mode=0o700)
    if os.geteuid() == 54321:
        folder.chmod(0o777)
    with pytest.raises(UsageError, match=f"{folder} is not a folder of this user alone: set CIFAR_JAX_CACHE"):
        cache_root()


def test_without_any_folder_the_cache_must_be_named(no_home, monkeypatch):
    def nowhere():
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(cache.tempfile, "gettempdir", nowhere)
    with pytest.raises(UsageError, match=r"No usable temporary directory found.*set CIFAR_JAX_CACHE"):
        cache_root()
