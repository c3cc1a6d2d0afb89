import bz2
import gzip
import io
import lzma
import os
import shutil
import stat
import tarfile
import zipfile

import pytest

from cifar_jax.data.archives import first_folder, is_archive, opened
from cifar_jax.errors import DataError

FORMATS = ["tar", "gztar", "bztar", "xztar", "zip"]


def _contents(path):
    """Of each file its bytes, of each folder None."""
    with opened(path) as listing:
        return {name: listing.read(name) for name in listing.files} | dict.fromkeys(listing.folders)


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


def _tar(path, *members, content=b"content"):
    """Files, or links and others with a type and a target."""
    with tarfile.open(path, "w") as archive:
        for name, *kind in members:
            info = tarfile.TarInfo(name)
            if kind:
                info.type, info.linkname = kind
            else:
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def _zip(path, *members):
    with zipfile.ZipFile(path, "w") as archive:
        for info, content in members:
            archive.writestr(info, content)
    return path


def test_archives_and_directories_hold_the_same(folder, archive):
    assert is_archive(archive)
    expected = {f"a/{i}.png": (folder / "a" / f"{i}.png").read_bytes() for i in range(40)}
    expected |= {"a": None, "a/empty": None, "b.txt": b"b"}
    assert _contents(archive) == _contents(folder) == expected


def test_every_truncation_is_noticed_and_names_the_file(archive, tmp_path):
    complete = archive.read_bytes()
    cut_archive = tmp_path / "cut"
    content = len(complete)
    if tarfile.is_tarfile(archive) and complete[257:262] == b"ustar":
        content = len(complete.rstrip(b"\0"))  # the empty blocks at the end carry no content
    for cut in [*range(1, content - 1, max(1, content // 40)), content - 1]:
        cut_archive.write_bytes(complete[:cut])
        with pytest.raises(DataError, match=str(cut_archive)) as caught:
            _contents(cut_archive)
        assert "\n" not in str(caught.value)


def test_plain_tar_cut_between_two_files_is_noticed(folder, tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(folder / "a" / "1.png", "1.png")
        boundary = archive.offset
        archive.add(folder / "a" / "2.png", "2.png")
    (tmp_path / "cut.tar").write_bytes((tmp_path / "x.tar").read_bytes()[:boundary])
    with pytest.raises(DataError, match="no end-of-archive mark"):
        _contents(tmp_path / "cut.tar")


def test_a_damaged_header_within_a_tar_does_not_end_the_list(tmp_path):
    data = bytearray(_tar(tmp_path / "x.tar", ("a",), ("b",), ("c",)).read_bytes())
    data[1024 + 5] ^= 1  # the header of the second file
    (tmp_path / "x.tar").write_bytes(data)
    with pytest.raises(DataError, match=r"damaged header at byte 1,024"):
        _contents(tmp_path / "x.tar")


def test_what_follows_the_end_of_a_tar_is_reported(tmp_path):
    first, second = (_tar(tmp_path / name, (name,)).read_bytes() for name in ("a", "b"))
    (tmp_path / "both.tar").write_bytes(first + second)
    with opened(tmp_path / "both.tar") as listing:
        assert listing.notes == ["what follows the end mark of the archive"]


@pytest.mark.parametrize("file_format", ["gztar", "xztar", "zip"])
def test_changed_bytes_are_noticed(folder, tmp_path, file_format):
    path = tmp_path / "x"
    shutil.move(shutil.make_archive(str(tmp_path / "made"), file_format, folder), path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)
    with pytest.raises(DataError, match=str(path)):
        _contents(path)


@pytest.mark.parametrize("target", ["/etc/passwd", "../x", "a/../../x", "cat.png", "x\0y" * 2000])
def test_links_out_of_an_archive_are_not_followed(tmp_path, target):
    info = zipfile.ZipInfo("cat.png")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    paths = [_zip(tmp_path / "x.zip", (info, target))]
    if "\0" not in target:
        paths.append(_tar(tmp_path / "x.tar", ("cat.png", tarfile.SYMTYPE, target)))
    for path in paths:
        with opened(path) as listing:
            if not listing.files["cat.png"].problem:  # too long for a link: content
                assert listing.read("cat.png") == target.encode()
                continue
            with pytest.raises(DataError, match=f"{path}/cat.png: a link that leads out of the archive"):
                listing.read("cat.png")


def test_links_within_an_archive_are_followed(tmp_path):
    members = [
        ("pool/1.png",),
        ("pool/dog/2.png",),
        ("a/1.png", tarfile.SYMTYPE, "../pool/1.png"),
        ("a/hard.png", tarfile.LNKTYPE, "pool/1.png"),
        ("b", tarfile.SYMTYPE, "pool/dog"),
        ("c", tarfile.SYMTYPE, "b/../../a/../b"),
        ("pool/dog/loop", tarfile.SYMTYPE, ".."),
        ("missing.png", tarfile.SYMTYPE, "nowhere"),
        ("bad.png", tarfile.LNKTYPE, "nowhere"),
    ]
    with opened(_tar(tmp_path / "x.tar", *members)) as listing:
        readable = {name for name, node in listing.files.items() if not node.problem}
        links = {"a/1.png": "pool/1.png", "b/2.png": "pool/dog/2.png", "c/2.png": "pool/dog/2.png"}
        assert readable == {"pool/1.png", "pool/dog/2.png", "a/hard.png", *links}
        assert all(listing.files[name].real == real for name, real in links.items())
        assert all(listing.read(name) == b"content" for name in readable)
        assert "pool/dog/loop" in listing.loops
        for name in ("missing.png", "bad.png"):
            with pytest.raises(DataError, match=f"{name}: a (hard )?link to"):
                listing.read(name)


def test_devices_and_fifos_in_a_tar_cannot_be_read(tmp_path):
    path = _tar(tmp_path / "x.tar", ("a.png", tarfile.FIFOTYPE, ""), ("b.png", tarfile.CHRTYPE, ""))
    with opened(path) as listing:
        for name in ("a.png", "b.png"):
            with pytest.raises(DataError, match="a device or FIFO"):
                listing.read(name)


def test_zips_of_powershell_have_backslashes(tmp_path):
    path = _zip(tmp_path / "x.zip", ("train\\cat\\1.png", b"1"), ("train\\empty\\", b""))
    assert _contents(path) == {"train": None, "train/cat": None, "train/cat/1.png": b"1", "train/empty": None}
    mixed = _zip(tmp_path / "mixed.zip", ("train/c\\t/1.png", b"1"))
    assert "train/c\\t/1.png" in _contents(mixed)


@pytest.mark.parametrize(
    ("raw", "name", "is_noted"),
    [(b"\xc3\xa9.png", "é.png", False), (b"\x82.png", "é.png", True), (b"\xe9.png", "Θ.png", True)],
)
def test_zip_names_without_the_flag_for_utf8(tmp_path, raw, name, is_noted):
    path = _zip(tmp_path / "x.zip", ("x" * len(raw), b"1"))
    path.write_bytes(path.read_bytes().replace(b"x" * len(raw), raw))
    with opened(path) as listing:
        assert list(listing.files) == [name]
        assert listing.notes == (["1 names in an unknown encoding, read as cp437 (" + name + ")"] if is_noted else [])


def test_zip_names_that_are_not_the_utf8_they_claim_are_an_error(tmp_path):
    path = _zip(tmp_path / "x.zip", ("é", b"1"))
    path.write_bytes(path.read_bytes().replace("é".encode(), b"\xff\xfe"))
    with pytest.raises(DataError, match=rf"{path}: truncated, damaged or encrypted \(.*utf-8"):
        _contents(path)


def test_encrypted_and_unknown_members_of_a_zip_are_named(tmp_path):
    path = _zip(tmp_path / "x.zip", ("a/1.png", b"1"))
    complete = path.read_bytes()
    central = complete.index(b"PK\1\2")
    for offset, value, message in ((8, 1, "encrypted"), (10, 99, "compression method")):
        data = bytearray(complete)
        data[central + offset] = data[offset - 2] = value
        path.write_bytes(data)
        with pytest.raises(DataError, match=rf"{path}.*a/1.png.*{message}.*use the folder"):
            _contents(path)


def test_bombs_are_refused_before_they_are_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr("cifar_jax.files.untrusted._FREE", 2 << 20)
    for module, suffix in ((gzip, "gz"), (bz2, "bz2"), (lzma, "xz")):
        (tmp_path / f"x.tar.{suffix}").write_bytes(9 * module.compress(bytes(1 << 20)))
    data = _zip(tmp_path / "x.zip", ("a", b"1")).read_bytes()
    size = data.index(b"PK\1\2") + 24
    (tmp_path / "x.zip").write_bytes(data[:size] + (9 << 20).to_bytes(4, "little") + data[size + 4 :])
    for path in tmp_path.iterdir():
        with pytest.raises(DataError, match=f"{path}: declares .* bytes of content in a file of"):
            _contents(path)


@pytest.mark.parametrize("name", ["../x.png", "a/../../x.png", "a/" * 70 + "x.png", "a/" * 100_000 + "x.png"])
def test_names_that_lead_out_or_too_deep_are_refused(tmp_path, name):
    paths = [_tar(tmp_path / "x.tar", (name,))]
    if len(name) < 1 << 16:
        paths.append(_zip(tmp_path / "x.zip", (name, b"")))
    for path in paths:
        with pytest.raises(
            DataError, match=f"{path}: the name '.*' (leads out|is more than 64 folders deep)"
        ) as caught:
            _contents(path)
        assert len(str(caught.value)) < 400


def test_a_file_that_is_also_a_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"x\.tar/a: both a file and a folder"):
        _contents(_tar(tmp_path / "x.tar", ("a",), ("a/b",)))


def test_no_room_to_unpack_is_one_line(tmp_path, monkeypatch, folder):
    class Full(io.BytesIO):
        def write(self, block):
            raise OSError(28, os.strerror(28))

    monkeypatch.setattr("tempfile.TemporaryFile", Full)
    path = shutil.make_archive(str(tmp_path / "made"), "gztar", folder)
    with pytest.raises(DataError, match=r"made.tar.gz: unpacking in .* failed \(No space left on device\); set TMPDIR"):
        _contents(type(tmp_path)(path))


def test_the_first_folder_of_an_archive(archive, tmp_path):
    assert first_folder(archive) in ("a", "b.txt", ".hidden", "__MACOSX")
    assert first_folder(_tar(tmp_path / "x.tar", ("./cifar/x",))) == "cifar"
    assert first_folder(_zip(tmp_path / "x.zip")) == ""


def test_other_files_are_no_archives(tmp_path):
    for data in (b"", b"text", b"\x89PNG\r\n"):
        (tmp_path / "x").write_bytes(data)
        assert not is_archive(tmp_path / "x")
    assert is_archive(_zip(tmp_path / "x.zip", ("a", "b")))
    assert is_archive(_zip(tmp_path / "empty.zip"))
