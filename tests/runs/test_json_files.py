"""JSON files are written completely or not at all, and no damage of one is read as a value."""

import errno
import json
import math
import os
import pathlib
import random

import pytest

from cifar_jax.config.keys import integer
from cifar_jax.errors import DataError
from cifar_jax.runs.forms import TEXT
from cifar_jax.runs.json_files import problems, read_json, write_json

VALUE = {"name": "cät", "n": 3, "shares": [0.1, 1e-30, -0.0, 1e22], "inner": {"b": None, "a": True}, "10": 1, "9": 2}


@pytest.fixture
def path(tmp_path) -> pathlib.Path:
    write_json(tmp_path / "a.json", VALUE)
    return tmp_path / "a.json"


def test_what_was_written_comes_back_and_the_file_is_plain_json(path, caplog):
    assert read_json(path) == VALUE and not caplog.text
    content = json.loads(path.read_text())
    assert len(content.pop("checksum")) == 64 and content == VALUE


def test_no_flipped_bit_and_no_cut_is_read_as_another_value(path):
    """Every bit of the file; only white space and the case of \\u escapes may change without an error."""
    content = path.read_bytes()
    damaged = [content[:end] for end in range(len(content) - 2)]
    for place in range(len(content)):
        for bit in range(8):
            damaged.append(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
    accepted = 0
    for text in damaged:
        path.write_bytes(text)
        try:
            found = read_json(path)
        except DataError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            continue
        accepted += 1
        assert found.items() >= VALUE.items()  # a misspelt "checksum" is a further key
    assert accepted < len(damaged) / 20


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "damaged"),
        (b"[]", "not an object"),
        (b"null", "not an object"),
        (b"\xff\xfe", "damaged"),
        (b"[" * 200_000, "too deeply nested"),
        (b'{"a":' * 200_000, "too deeply nested"),
        (b'{"a": NaN}', "NaN is no finite number"),
        (b'{"a": -Infinity}', "-Infinity is no finite number"),
        (b'{"a": 1e999, "checksum": "0"}', "1e999 is no finite number"),
        (b'{"a": ' + b"1" * 10_000 + b"}", "digits"),
        (b'{"a": "\x00"}', "damaged"),
    ],
)
def test_content_that_is_no_json_object_is_named_in_one_line(path, content, words):
    path.write_bytes(content)
    with pytest.raises(DataError, match=words) as caught:
        read_json(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_only_regular_files_of_a_plausible_size_are_read(path):
    path.unlink()
    with pytest.raises(DataError, match="No such file"):
        read_json(path)
    path.mkdir()
    with pytest.raises(DataError, match="Is a directory"):
        read_json(path)
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(DataError, match="regular file"):
        read_json(path)
    path.unlink()
    with open(path, "wb") as file:
        file.truncate(1 << 40)  # a sparse terabyte
    with pytest.raises(DataError, match="more than"):
        read_json(path)


def test_a_file_without_a_checksum_is_read_with_one_warning(path, caplog):
    path.write_text(json.dumps(VALUE))
    assert read_json(path) == read_json(path) == VALUE
    assert caplog.text.count("has no checksum") == 1


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_not_finite_are_never_written(path, value):
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"x": [value]})
    assert read_json(path) == VALUE


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_full_disk_keeps_the_old_file_and_leaves_no_temporary_file(path, monkeypatch, failing):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, failing, full)
    with pytest.raises(DataError, match=rf"^{path} could not be written: No space left on device$"):
        write_json(path, {"x": 2})
    assert list(path.parent.iterdir()) == [path] and read_json(path) == VALUE


def test_a_reader_never_sees_a_partial_file(path, monkeypatch):
    """When the file is renamed, the new text is complete on disk and the old file still exists."""
    seen, replace = [], os.replace

    def watch(source, target):
        seen.append((read_json(pathlib.Path(source)), read_json(path)))
        replace(source, target)

    monkeypatch.setattr(os, "replace", watch)
    write_json(path, {"x": 2})
    assert seen == [({"x": 2}, VALUE)] and read_json(path) == {"x": 2}


FORM = {"n": integer(0, 10**9), "names": [TEXT], "maybe": ({"x": integer(1, 10**9)},), "inner": {"y": TEXT}}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, []),
        ({"maybe": None}, []),
        ({"further": 1}, []),
        ({"n": -5}, ["n is -5, must be an integer of at least 0, at most 1000000000"]),
        ({"n": True}, ["n is true, must be an integer of at least 0, at most 1000000000"]),
        ({"names": ["a", 3]}, ["names[1] is 3, must be text"]),
        ({"names": "ab"}, ['names is "ab", must be a list']),
        ({"inner": []}, ["inner is [], must be an object"]),
        ({"inner": {}}, ["inner.y is missing"]),
        ({"maybe": {"x": 0}}, ["maybe.x is 0, must be an integer of at least 1, at most 1000000000"]),
    ],
)
def test_each_wrong_value_is_named_with_its_place(path, change, expected):
    value = {"n": 1, "names": [], "inner": {"y": "z"}} | change
    assert list(problems(value, FORM)) == expected
    write_json(path, value)
    if expected:
        with pytest.raises(DataError) as caught:
            read_json(path, FORM)
        assert expected[0] in str(caught.value)
    else:
        assert read_json(path, FORM) == value


def test_no_value_of_any_type_breaks_the_validation():
    choose = random.Random(0)

    def value(depth):
        if depth and choose.random() < 0.6:
            keys = choose.sample(["n", "names", "maybe", "inner", "x", "y"], 3)
            return choose.choice([[value(depth - 1)], {key: value(depth - 1) for key in keys}])
        return choose.choice([None, True, -1, 10**400, 1e308, "text", "", [], {}])

    found = [list(problems(value(3), FORM)) for _ in range(2000)]
    assert sum(map(bool, found)) > 1900
