import os
import socket

import pytest

from cifar_jax.errors import DataError
from cifar_jax.files.untrusted import open_regular, require_plausible_size


def test_a_regular_file_is_opened_also_through_a_link(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        with open_regular(tmp_path / name) as file:
            assert file.read() == b"content"


def test_fifos_and_devices_are_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("/dev/zero")
    for path in (tmp_path / "fifo", tmp_path / "link"):
        with pytest.raises(DataError, match=f"{path}: a device or FIFO; expected a regular file"):
            open_regular(path)


def test_what_cannot_be_opened_is_an_os_error(tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        for name in ("missing", "s", "."):
            with pytest.raises(OSError):
                open_regular(tmp_path / name)


@pytest.mark.parametrize(("declared", "stored"), [(0, 0), (256 << 20, 1), (100 << 30, 1 << 30)])
def test_plausible_sizes(declared, stored):
    require_plausible_size(declared, stored=stored, where="file")
    with pytest.raises(DataError, match=f"file: declares .* bytes of content in a file of {stored:,}: "):
        require_plausible_size(declared + (256 << 20) + 1, stored=stored, where="file")
