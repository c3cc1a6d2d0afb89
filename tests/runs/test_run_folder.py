import errno
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import pytest

from cifar_jax.config import default_config
from cifar_jax.config.validate import to_json
from cifar_jax.errors import DataError, UsageError
from cifar_jax.runs import run_folder
from cifar_jax.runs.json_files import json_checksum, plain, read_json, write_json
from cifar_jax.runs.run_folder import RunFolder

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = to_json(default_config())
SPLIT = {"n": 3, "fingerprint": "0a"}
DATA = {
    "name": "CIFAR-10",
    "is_fallback": False,
    "classes": ["cat", "dog"],
    "splits": {"train": SPLIT, "validation": SPLIT, "test": SPLIT},
}
RECORD = {"config": CONFIG, "command": "first", "data": DATA, "backbone": None, "initial_weights": None}

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
    """RECORD with other values of configuration keys, written with __ in place of dots."""
    config = default_config()
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in values.items()})
    return RECORD | {"config": to_json(config)}


def snapshot(path) -> dict:
    return {str(file): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def metadata(folder: RunFolder, step: int, **content) -> None:
    """Writes the metadata of a checkpoint as `Checkpoints` does."""
    path = folder.checkpoints_dir / str(step) / "meta" / "metadata"
    path.parent.mkdir(parents=True)
    meta = plain({"metadata": content, "leaves": {}, "val_accuracy": None})
    path.write_text(json.dumps({**meta, "sha256": json_checksum(meta)}))


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
    run.claim(RECORD)
    assert run.recorded() == RECORD == read_json(run.config_json)
    run.claim(RECORD | {"command": "the same again"})
    assert run.recorded()["command"] == "the same again"


def test_claim_rejects_another_configuration_and_changes_nothing(run):
    run.claim(RECORD)
    before = snapshot(run.path)
    with pytest.raises(UsageError) as caught:
        run.claim(changed(train__epochs=30, train__seed=1))
    assert "train.epochs: 20 -> 30; train.seed: 0 -> 1" in str(caught.value)
    assert str(run.path) in str(caught.value) and "\n" not in str(caught.value)
    assert snapshot(run.path) == before


def test_claim_accepts_changes_of_keys_that_do_not_affect_training(run):
    run.claim(RECORD)
    run.claim(changed(train__log_every_steps=5, data__dir="/elsewhere"))
    assert run.recorded()["config"]["train"]["log_every_steps"] == 5


def test_a_file_in_place_of_the_folder_is_a_usage_error(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match="file is not a folder"):
            RunFolder(path).require_writable()
        with pytest.raises(UsageError, match="file"):
            RunFolder(path).claim(RECORD)
        with pytest.raises(UsageError, match="file"), RunFolder(path).lock():
            pass
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "words"),
    [("x" * 256, "too long"), ("x/" * 2500, "too long"), ("\udcff", "not UTF-8"), ("a\0b", "null")],
)
def test_a_path_that_no_folder_can_have_is_a_usage_error_at_once(tmp_path, name, words):
    with pytest.raises(UsageError, match=rf"^--workdir=.*{words}") as caught:
        RunFolder(tmp_path / name)
    str(caught.value).encode()


@pytest.mark.parametrize("name", ["with space", "день-日", "new\nline", "#?%'\"", "x" * 255])
def test_other_paths_work(tmp_path, name):
    run = RunFolder(tmp_path / name)
    run.claim(RECORD)
    assert run.recorded() == RECORD


CONTENTS = (
    b"",
    b"{}",
    b"[]",
    b"null",
    b'{"config": {',
    b"\xff",
    b"[" * 100_000,
    b'{"a": NaN}',
    b'{"a": ' + b"9" * 5000 + b"}",
)


@pytest.mark.parametrize("content", CONTENTS)
def test_a_damaged_config_json_is_replaced_by_its_copy_in_the_newest_checkpoint(run, content, caplog):
    run.claim(RECORD)
    run.config_json.write_bytes(content)
    with pytest.raises(DataError, match=r"config\.json.* is damaged.*delete it to start again") as caught:
        run.recorded()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    metadata(run, 5, data=DATA)
    with pytest.raises(DataError, match="restore it from a backup; the checkpoints have no copy"):
        run.recorded()
    metadata(run, 10, data=DATA, run=RECORD)
    metadata(run, 15, run=changed(train__seed=1))
    (run.checkpoints_dir / "15" / "meta" / "metadata").write_text("{}")  # damaged itself
    assert run.recorded() == RECORD
    assert "using its copy in checkpoint 10" in caplog.text
    run.claim(RECORD)
    assert read_json(run.config_json) == RECORD


@pytest.mark.parametrize("kind", ["missing", "folder"])
def test_a_run_whose_config_json_is_gone_is_still_a_run(run, kind):
    metadata(run, 10, data=DATA, run=RECORD)
    if kind == "folder":
        run.config_json.mkdir()
    assert run.is_run and run.recorded() == RECORD


def edited(run: RunFolder, *, keep_checksum: bool) -> None:
    content = json.loads(run.config_json.read_text())
    content["data"]["classes"] = ["dog", "cat"]
    if not keep_checksum:
        del content["checksum"]
    run.config_json.write_text(json.dumps(content))


@pytest.mark.parametrize("keep_checksum", [True, False])
def test_edited_class_names_are_not_used(run, keep_checksum, caplog):
    run.claim(RECORD)
    metadata(run, 10, data=DATA, run=RECORD)
    edited(run, keep_checksum=keep_checksum)
    assert run.recorded()["data"]["classes"] == ["cat", "dog"]
    assert "using its copy in checkpoint 10" in caplog.text


def test_the_config_json_of_an_older_version_is_read_with_a_warning_and_the_classes_of_the_checkpoint(run, caplog):
    run.claim(RECORD)
    metadata(run, 10, data=DATA)
    edited(run, keep_checksum=False)
    assert run.recorded() == RECORD
    assert "no checksum" in caplog.text and "cannot be detected" in caplog.text


@pytest.mark.parametrize(
    ("group", "key", "value", "words"),
    [
        ("train", "batch_size", -5, "train.batch_size=-5: must be"),
        ("train", "epoch", 3, "no configuration key 'train.epoch'"),
        ("model", "widths", 8, "model.widths=8: must be"),
    ],
)
def test_a_recorded_configuration_is_validated_as_what_a_user_types(run, group, key, value, words):
    run.claim(RECORD)
    config = CONFIG | {group: CONFIG[group] | {key: value}}
    write_json(run.config_json, RECORD | {"config": config})
    with pytest.raises(DataError, match=words):
        run.recorded()


def test_a_key_that_is_newer_than_the_run_gets_its_default_with_one_line(run, caplog):
    run.claim(RECORD)
    older = {key: dict(group) if isinstance(group, dict) else group for key, group in CONFIG.items()}
    del older["model"]["dropout"], older["augment"]["mixup"]
    write_json(run.config_json, RECORD | {"config": older})
    assert run.recorded() == run.recorded() == RECORD
    assert caplog.text.count("without augment.mixup, model.dropout: using their defaults") == 1
    run.require_same(CONFIG)
    for empty in ({}, {"model": {}}):
        write_json(run.config_json, RECORD | {"config": empty})
        with pytest.raises(DataError, match="this key is missing"):
            run.recorded()


def test_a_folder_that_was_deleted_during_training_is_not_created_again(run):
    run.claim(RECORD)
    run.require_present()
    shutil.rmtree(run.path)
    with pytest.raises(DataError, match="was deleted or moved during training"):
        run.require_present()
    assert not run.path.exists()


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
