import io
import os
import socket
import zipfile

import pytest

from cifar_jax.errors import DataError
from cifar_jax.files.untrusted import open_regular, open_zip, require_plausible_size


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


def packed():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a", b"abc")
        archive.writestr("b", b"def")
    return file


def test_a_zip_is_opened():
    with open_zip(packed()) as archive:
        assert archive.read("b") == b"def"


CENTRAL_FLAGS, CENTRAL_COMPRESSED_SIZE = 8, 20  # places in an entry of the table of contents


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (CENTRAL_FLAGS, b"\x01\x00", "'a' is encrypted; write the file again without a password"),
        (CENTRAL_COMPRESSED_SIZE, b"\x00\x00\x00\x40", "a zip whose members are larger than the file"),
    ],
)
def test_zips_that_cannot_be_read_within_their_size(place, value, message):
    data = bytearray(packed().getvalue())
    start = data.index(b"PK\x01\x02") + place
    data[start : start + len(value)] = value
    with pytest.raises(DataError, match=message):
        open_zip(io.BytesIO(data))
