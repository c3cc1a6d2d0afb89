import shutil
import tarfile
import zipfile

import pytest

from cifar_jax.data.archives import is_archive, members
from cifar_jax.errors import DataError

FORMATS = ["tar", "gztar", "bztar", "xztar", "zip"]


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "root"
    (root / "a" / "empty").mkdir(parents=True)
    for i in range(40):  # sizes around the blocks of 512 bytes
        (root / "a" / f"{i}.png").write_bytes(bytes((i * j + j // 7) % 251 for j in range(500 + i)))
    (root / "b.txt").write_bytes(b"b")
    (root / ".hidden").write_bytes(b"x")
    (root / "__MACOSX").mkdir()
    (root / "__MACOSX" / "c.png").write_bytes(b"x")
    return root


@pytest.fixture(params=FORMATS)
def archive(request, folder, tmp_path):
    path = tmp_path / "packed"
    shutil.move(shutil.make_archive(str(tmp_path / "made"), request.param, folder), path)
    return path


def test_archives_and_directories_hold_the_same(folder, archive):
    assert is_archive(archive)
    packed, plain = dict(members(archive)), dict(members(folder))
    expected = {f"a/{i}.png": (folder / "a" / f"{i}.png").read_bytes() for i in range(40)}
    assert packed == plain == expected | {"a": None, "a/empty": None, "b.txt": b"b"}


def test_only_files_with_the_endings_are_read(archive):
    contents = dict(members(archive, endings=(".txt",)))
    assert contents["b.txt"] == b"b" and contents["a/3.png"] == b""


def test_every_truncation_is_noticed_and_names_the_file(archive, tmp_path):
    complete = archive.read_bytes()
    cut_archive = tmp_path / "cut"
    content = len(complete)
    if tarfile.is_tarfile(archive) and complete[257:262] == b"ustar":
        content = len(complete.rstrip(b"\0"))  # the empty blocks at the end carry no content
    for cut in [*range(1, content - 1, max(1, content // 40)), content - 1]:
        cut_archive.write_bytes(complete[:cut])
        with pytest.raises(DataError, match=str(cut_archive)) as caught:
            list(members(cut_archive))
        assert "\n" not in str(caught.value)


def test_plain_tar_cut_between_two_files_is_noticed(folder, tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(folder / "a" / "1.png", "1.png")
        boundary = archive.offset
        archive.add(folder / "a" / "2.png", "2.png")
    (tmp_path / "cut.tar").write_bytes((tmp_path / "x.tar").read_bytes()[:boundary])
    with pytest.raises(DataError, match="no end-of-archive mark"):
        list(members(tmp_path / "cut.tar"))


@pytest.mark.parametrize("file_format", ["gztar", "xztar", "zip"])
def test_changed_bytes_are_noticed(folder, tmp_path, file_format):
    path = tmp_path / "x"
    shutil.move(shutil.make_archive(str(tmp_path / "made"), file_format, folder), path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)
    with pytest.raises(DataError, match=str(path)):
        list(members(path))


def test_links_out_of_a_tar_are_not_followed(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        link = tarfile.TarInfo("cat.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    assert list(members(tmp_path / "x.tar")) == []


def test_other_files_are_no_archives(tmp_path):
    for data in (b"", b"text", b"\x89PNG\r\n"):
        (tmp_path / "x").write_bytes(data)
        assert not is_archive(tmp_path / "x")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a", "b")
    assert is_archive(tmp_path / "x.zip")
