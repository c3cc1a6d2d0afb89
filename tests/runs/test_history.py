"""history.json has one list per column; its rows come from the checkpoint that a run resumes from."""

import errno
import json
import os

import pytest

from cifar_jax.errors import DataError
from cifar_jax.runs.forms import COLUMNS
from cifar_jax.runs.history import History, read_history


def row(epoch: int, **values) -> dict:
    return {**dict.fromkeys(COLUMNS, 0.5), "epoch": epoch, **values}


def rows(epochs: int) -> dict[str, list]:
    return {name: [row(epoch)[name] for epoch in range(1, epochs + 1)] for name in COLUMNS}


@pytest.fixture
def path(tmp_path):
    """A history of three epochs."""
    history = History(tmp_path / "history.json")
    for epoch in (1, 2, 3):
        history.append(row(epoch))
    return tmp_path / "history.json"


def test_the_file_is_complete_after_every_epoch_and_holds_only_columns(tmp_path):
    history = History(tmp_path / "history.json")
    assert not (tmp_path / "history.json").exists()
    for epoch in (1, 2, 3):
        history.append(row(epoch))
        assert json.loads((tmp_path / "history.json").read_text()) == rows(epoch)
    assert list(history.columns) == list(COLUMNS) and len(history) == 3


@pytest.mark.parametrize("content", [None, b"{}", b"", b"[]", b'{"epoch": [1, 2, 3]}', b"\xff", "other number"])
def test_a_resumed_history_has_the_rows_of_the_checkpoint_whatever_the_file_says(path, content, caplog):
    if content is None:
        path.unlink()
    elif content == "other number":
        path.write_text(json.dumps(rows(3) | {"loss": [0.5, 0.25, 0.5]}))
    else:
        path.write_bytes(content)
    history = History(path)
    history.resume({"history": rows(2)}, epoch=2)
    assert history.columns == read_history(path) == rows(2)
    assert "written again from the rows in the checkpoint" in caplog.text
    history.append(row(3))
    assert read_history(path) == rows(3)


def test_rows_after_the_checkpoint_are_dropped_without_a_warning(path, caplog):
    History(path).resume({"history": rows(2)}, epoch=2)
    assert read_history(path) == rows(2) and not caplog.text


def test_a_checkpoint_of_an_older_version_takes_the_rows_of_the_file(path):
    History(path).resume({}, epoch=2)
    assert read_history(path) == rows(2)
    path.write_text("{}")
    with pytest.raises(DataError, match=r"history\.json is damaged.*older version, have no copy"):
        History(path).resume({}, epoch=2)


def test_a_process_that_does_not_write_has_the_same_rows(path):
    before = path.read_bytes()
    history = History(path, writes=False)
    history.resume({"history": rows(1)}, epoch=1)
    history.append(row(2))
    assert history.columns == rows(2) and path.read_bytes() == before


def test_other_columns_and_numbers_that_are_not_finite_change_nothing(path):
    history = History(path)
    history.resume({"history": rows(3)}, epoch=3)
    with pytest.raises(ValueError, match="columns"):
        history.append({"epoch": 4, "loss": 0.1})
    with pytest.raises(ValueError, match="JSON"):
        history.append(row(4, loss=float("nan")))
    assert len(history) == 3 and read_history(path) == rows(3)


def test_columns_of_different_length_are_damage(path):
    path.write_text(json.dumps(rows(3) | {"loss": [0.5, 0.5]}))
    with pytest.raises(DataError, match="columns differ in length"):
        read_history(path)


def test_a_full_disk_is_reported_with_what_stays_usable(path, monkeypatch):
    history = History(path)

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="No space left on device; earlier checkpoints stay usable"):
        history.append(row(1))
    assert read_history(path) == rows(3)


@pytest.mark.parametrize("damage", [{"val_loss": [0.5]}, {"val_loss": None, "val_accuracy": None}])
def test_a_run_without_a_validation_split_has_no_validation_columns(tmp_path, damage):
    path = tmp_path / "history.json"
    history = History(path, with_validation=False)
    with pytest.raises(ValueError, match="columns"):
        history.append(row(1))
    history.append({name: value for name, value in row(1).items() if not name.startswith("val_")})
    assert read_history(path) == {name: values for name, values in rows(1).items() if not name.startswith("val_")}
    path.write_text(json.dumps(read_history(path) | damage))
    with pytest.raises(DataError, match="is damaged: val_"):
        read_history(path)
