import errno
import json
import math
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from cifar_jax.errors import DataError, UsageError
from cifar_jax.runs import run_folder
from cifar_jax.runs.run_folder import History, RunFolder, read_json, write_json

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = {"train": {"epochs": 20, "seed": 0, "log_every_steps": 0}, "data": {"dir": "", "name": "cifar10"}}
DATA = {"name": "CIFAR-10", "fingerprint": "0a"}

HOLD_THE_LOCK = """
import sys, time
from cifar_jax.runs.run_folder import RunFolder
with RunFolder(sys.argv[1]).lock():
    print("locked", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return RunFolder(tmp_path / "runs" / "one")


def changed(**values) -> dict:
    return {group: {key: values.get(key, value) for key, value in keys.items()} for group, keys in CONFIG.items()}


def snapshot(path) -> dict:
    return {str(file): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def row(epoch: int, **values) -> dict:
    return {**dict.fromkeys(History.COLUMNS, 0.5), "epoch": epoch, **values}


def test_the_paths_of_a_run_folder(run):
    names = [
        *(run.config_json, run.architecture_json, run.history_json, run.results_json, run.checkpoints_dir),
        *(run.evaluation_dir("test"), run.figures_dir, run.tensorboard_dir, run.report_html),
    ]
    assert [str(name.relative_to(run.path)) for name in names] == [
        *("config.json", "architecture.json", "history.json", "results.json", "checkpoints"),
        *("evaluation/test", "figures", "tensorboard", "report.html"),
    ]
    assert not run.path.exists()


def test_claim_writes_configuration_and_command(run):
    run.claim(CONFIG, "python main.py --config configs/x.py", data=DATA)
    origins = {"data": DATA, "backbone": None, "initial_weights": None}
    assert read_json(run.config_json) == {
        "config": CONFIG,
        "command": "python main.py --config configs/x.py",
        **origins,
    }
    run.claim(CONFIG, "the same again", data=DATA)


def test_claim_rejects_another_configuration_and_changes_nothing(run):
    run.claim(CONFIG, "first", data=DATA)
    before = snapshot(run.path)
    with pytest.raises(UsageError) as caught:
        run.claim(changed(epochs=30, seed=1), "second", data=DATA)
    assert "train.epochs: 20 -> 30; train.seed: 0 -> 1" in str(caught.value)
    assert str(run.path) in str(caught.value) and "\n" not in str(caught.value)
    assert snapshot(run.path) == before


def test_claim_accepts_changes_of_keys_that_do_not_affect_training(run):
    run.claim(CONFIG, "first", data=DATA)
    run.claim(changed(log_every_steps=5, dir="/elsewhere"), "second", data=DATA)
    assert read_json(run.config_json)["config"]["train"]["log_every_steps"] == 5


def test_a_file_in_place_of_the_folder_is_a_usage_error(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match="file"):
            RunFolder(path).claim(CONFIG, "", data=DATA)
        with pytest.raises(UsageError, match="file"), RunFolder(path).lock():
            pass
    assert (tmp_path / "file").read_text() == "mine"


def test_a_damaged_config_json_is_named(run):
    run.claim(CONFIG, "", data=DATA)
    run.config_json.write_text('{"config": {')
    with pytest.raises(DataError, match=r"config\.json is damaged"):
        run.claim(CONFIG, "", data=DATA)
    with pytest.raises(DataError, match=r"results\.json cannot be read"):
        read_json(run.results_json)


def test_a_second_process_is_rejected_until_the_first_one_is_killed(run):
    command = [sys.executable, "-c", HOLD_THE_LOCK, str(run.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as first:
        try:
            assert first.stdout.readline() == "locked\n"
            with pytest.raises(UsageError, match=f"in use by process {first.pid} on "), run.lock():
                pass
        finally:
            first.send_signal(signal.SIGKILL)
    with run.lock():
        assert json.loads((run.path / ".lock").read_text())["pid"] == os.getpid()
        with pytest.raises(UsageError, match=f"process {os.getpid()} on "), run.lock():
            pass
    with run.lock():
        pass


def test_on_a_file_system_without_locks_a_run_starts_with_a_warning(run, monkeypatch, caplog):
    def unsupported(handle, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(run_folder.fcntl, "flock", unsupported)
    with run.lock():
        pass
    assert "do not start a second run" in caplog.text
    monkeypatch.setattr(run_folder, "fcntl", None)
    with run.lock():
        pass


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_not_finite_are_never_written(tmp_path, value):
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": [value]})
    assert read_json(tmp_path / "a.json") == {"x": 1}


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_full_disk_keeps_the_old_file_and_leaves_no_temporary_file(tmp_path, monkeypatch, failing):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "history.json"
    write_json(path, {"x": 1})
    monkeypatch.setattr(os, failing, full)
    with pytest.raises(DataError, match="No space left on device; earlier checkpoints stay usable") as caught:
        write_json(path, {"x": 2})
    assert str(path) in str(caught.value)
    assert list(tmp_path.iterdir()) == [path] and read_json(path) == {"x": 1}


def test_a_reader_never_sees_a_partial_file(tmp_path, monkeypatch):
    """When the file is renamed, the new text is complete on disk and the old file still exists."""
    path, seen = tmp_path / "a.json", []
    write_json(path, {"x": 1})
    replace = os.replace

    def watch(source, target):
        seen.append((json.loads(pathlib.Path(source).read_text()), read_json(path)))
        replace(source, target)

    monkeypatch.setattr(os, "replace", watch)
    write_json(path, {"x": 2})
    assert seen == [({"x": 2}, {"x": 1})] and read_json(path) == {"x": 2}


def test_history_is_written_after_every_epoch_and_can_be_continued(run):
    history = History(run.history_json)
    for epoch in (1, 2, 3):
        history.append(row(epoch, val_loss=None))
        assert read_json(run.history_json)["epoch"] == list(range(1, epoch + 1))
    again = History(run.history_json)
    assert again.columns == history.columns and len(again) == 3
    assert list(read_json(run.history_json)) == list(History.COLUMNS)


def test_history_is_truncated_to_the_epoch_of_a_checkpoint(run):
    history = History(run.history_json)
    history.truncate(0)
    assert not run.history_json.exists()
    for epoch in (1, 2, 3):
        history.append(row(epoch, loss=epoch / 10))
    history.truncate(2)
    assert read_json(run.history_json)["loss"] == [0.1, 0.2]
    history.append(row(3, loss=0.7))
    assert History(run.history_json).columns["loss"] == [0.1, 0.2, 0.7]


def test_history_rejects_other_columns_and_stays_unchanged(run):
    history = History(run.history_json)
    history.append(row(1))
    with pytest.raises(ValueError, match="columns"):
        history.append({"epoch": 2, "loss": 0.1})
    with pytest.raises(ValueError, match="JSON"):
        history.append(row(2, loss=math.nan))
    assert len(history) == 1 and len(History(run.history_json)) == 1
