"""The run folder: the files of one run. All modes that use a finished run only need this folder."""

import contextlib
import errno
import functools
import json
import logging
import os
import pathlib
import socket
from collections.abc import Iterator, Mapping
from typing import IO

import numpy as np

from cifar_jax.config.keys import FREE_KEYS, KEYS
from cifar_jax.config.validate import differences, from_json, key_problems
from cifar_jax.errors import DataError, UsageError
from cifar_jax.runs import forms
from cifar_jax.runs.history import read_history, until
from cifar_jax.runs.json_files import CHECKSUM, json_checksum, load_object, plain, read_json, warn_once, write_json
from cifar_jax.runs.metadata import newest_metadata, steps
from cifar_jax.runs.predictions import read_logits

try:
    import fcntl
except ImportError:  # Windows has no such locks: a second run in the same folder is not detected
    fcntl = None

REBUILD = "the train command of the run writes it again from the checkpoints"


class RunFolder:
    """The paths of one run. Only `claim`, `lock` and `write_json` create anything."""

    def __init__(self, path: pathlib.Path):
        """Raises UsageError if no folder can have this path; nothing is created."""
        self.path = path = pathlib.Path(path).absolute()
        _require_possible(path)
        self.config_json = path / "config.json"
        self.architecture_json = path / "architecture.json"
        self.history_json = path / "history.json"
        self.results_json = path / "results.json"
        self.probe_json = path / "probe.json"
        self.checkpoints_dir = path / "checkpoints"
        self.figures_dir = path / "figures"
        self.tensorboard_dir = path / "tensorboard"
        self.report_html = path / "report.html"

    def evaluation_dir(self, split: str) -> pathlib.Path:
        return self.path / "evaluation" / split

    @property
    def is_run(self) -> bool:
        """Whether the folder holds a run, even one without its config.json."""
        return os.path.lexists(self.config_json) or bool(steps(self.checkpoints_dir))

    def recorded(self) -> dict:
        """The content of config.json, see `claim`; if it is damaged, its copy in the newest checkpoint.

        Raises:
            UsageError: the folder holds no run.
            DataError: config.json is damaged and there is no copy.
        """
        if not self.is_run:
            seeds = sorted(path.parent.name for path in self.path.glob("seed_*/config.json"))
            hint = f"choose one of its runs: {', '.join(seeds)}" if seeds else "is it the folder of a run?"
            raise UsageError(f"--workdir={self.path} has no config.json: {hint}")
        content = None
        try:
            content = _with_valid_keys(read_json(self.config_json, forms.CONFIG, with_checksum=False))
            if CHECKSUM in load_object(self.config_json):
                return content
            problem = f"{self.config_json} has no checksum (edited, or written by an older version)"
        except DataError as error:
            problem = str(error)
        step, metadata = newest_metadata(self.checkpoints_dir) or (0, {})
        if "run" in metadata:
            warn_once(f"{problem}: using its copy in checkpoint {step}; {REBUILD}")
            return _with_valid_keys(metadata["run"])
        if content is None:
            has_steps = "restore it from a backup; the checkpoints have no copy of it"
            hint = has_steps if steps(self.checkpoints_dir) else "nothing was trained yet: delete it to start again"
            raise DataError(f"{problem}; {hint}")
        warn_once(f"{problem}: errors in it cannot be detected")
        return content | {"data": metadata.get("data", content["data"])}

    def results(self) -> dict:
        """The content of results.json. Raises DataError if it is missing or damaged."""
        results = self._read(self.results_json, forms.RESULTS)
        has_validation = forms.WITH_VALIDATION.keys() & results.keys()
        return self._read(self.results_json, forms.WITH_VALIDATION) if has_validation else results

    def architecture(self) -> dict:
        """The content of architecture.json. Raises DataError if it is missing or damaged."""
        return self._read(self.architecture_json, forms.ARCHITECTURE)

    def metrics(self, split: str) -> dict:
        """The content of evaluation/SPLIT/metrics.json. Raises DataError if it is missing or damaged."""
        return self._read(self.evaluation_dir(split) / "metrics.json", forms.METRICS)

    def history(self) -> dict[str, list]:
        """The columns of history.json, compared with results.json or, before the end of the run, with a checkpoint.

        Raises:
            DataError: the file is missing or damaged.
        """
        with _hint():
            columns = read_history(self.history_json)
            if self.results_json.exists():
                intact = self.results().get("history_checksum") in (None, json_checksum(columns))
            else:
                _, metadata = newest_metadata(self.checkpoints_dir) or (0, {})
                rows = metadata.get("history", {"epoch": []})
                intact = not rows["epoch"] or until(columns, rows["epoch"][-1]) == rows
            if not intact:
                raise DataError(f"{self.history_json} is damaged: its rows are not those of the run")
        return columns

    def logits(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """The logits, float32 (N, K), from which the accuracy in results.json was computed, and the labels (N,).

        Raises:
            DataError: the file is missing or damaged, or of another evaluation than results.json.
        """
        results = self.results()
        path, metrics = self.evaluation_dir(split) / "predictions.npz", results[split]
        shape = metrics["n"], len(results["data"]["classes"])
        with _hint():
            logits_NK, labels_N = read_logits(path, name="logits_tta" if metrics["tta"] else "logits", shape=shape)
            if (logits_NK.argmax(axis=1) == labels_N).sum() != round(metrics["accuracy"] * metrics["n"]):
                raise DataError(f"{path} is of another evaluation than {self.results_json.name}")
        return logits_NK, labels_N

    def damages(self) -> list[str]:
        """One line for each file of a finished run that is missing or damaged."""
        of_test = functools.partial(self.metrics, "test"), functools.partial(self.logits, "test")
        found = {}
        for read in (self.results, self.history, self.architecture, *of_test):
            try:
                read()
            except DataError as error:
                found[str(error).removesuffix(f"; {REBUILD}")] = None
        return list(found)

    def _read(self, path: pathlib.Path, form: Mapping) -> dict:
        with _hint():
            return read_json(path, form)

    def require_same(self, config: Mapping) -> None:
        """Raises UsageError, with the keys that differ, if the folder holds a run of another configuration."""
        if not self.is_run:
            return
        changed = differences(self.recorded()["config"], config)
        changed = [line for line in changed if line.split(":")[0] not in FREE_KEYS]
        if changed:
            hint = "choose another --workdir or the same configuration"
            if self.results_json.exists() and not any(line.startswith("model.") for line in changed):
                hint += f"; to train on from its weights: --workdir=NEW --config.train.init_from={self.path}"
            raise UsageError(f"{self.path} holds a run of another configuration ({'; '.join(changed)}): {hint}")

    def require_present(self) -> None:
        """Raises DataError if the folder of a run that trains was deleted or moved, instead of creating it again."""
        if not self.config_json.exists():
            raise DataError(
                f"{self.path} was deleted or moved during training: nothing more is written; "
                "if it was moved, resume with --workdir and its new path"
            )

    def require_writable(self) -> None:
        """Raises UsageError if the folder cannot be created, or written to."""
        existing = next(parent for parent in (self.path, *self.path.parents) if os.path.lexists(parent))
        if not existing.is_dir():
            raise UsageError(f"--workdir={self.path}: {existing} is not a folder; choose another")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise UsageError(f"--workdir={self.path}: {existing} cannot be written to; choose another")

    def claim(self, record: Mapping) -> None:
        """Writes config.json. Call it under `lock`.

        Args:
            record: 'config', plain nested dicts; 'command', as the user typed it; 'data', what identifies the data set;
                'backbone' and 'initial_weights', which identify weights of other origin, or None.

        Raises:
            UsageError: the folder cannot be created, or holds a run of another configuration, which stays unchanged.
            DataError: its config.json is damaged, and there is no copy.
        """
        self.require_same(record["config"])
        self._create()
        write_json(self.config_json, record)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Locks the folder against other processes until the block or this process ends.

        Raises:
            UsageError: another process uses the folder (the message names it), or the folder cannot be created.
        """
        self._create()
        with self._lock_file() as handle:
            try:
                if fcntl is not None:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                problem = f"{self.path} is in use by {_holder(handle)}"
                raise UsageError(f"{problem}: wait for it, stop it, or choose another --workdir") from None
            except OSError as error:  # some network file systems have no locks
                problem = f"{self.path} cannot be locked ({error.strerror})"
                logging.warning("%s: do not start a second run in it", problem)
            handle.truncate(0)
            handle.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
            handle.flush()
            yield

    def _lock_file(self) -> IO[str]:
        try:
            return open(self.path / ".lock", "a+", encoding="utf-8")
        except OSError as error:
            problem = f"{self.path} cannot be written: {error.strerror}"
            raise UsageError(f"{problem}; choose another --workdir") from error

    def _create(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:  # including a file of that name
            raise UsageError(f"--workdir={self.path} cannot be created: {error.strerror}; choose another") from error


def _holder(handle: IO[str]) -> str:
    handle.seek(0)
    try:
        holder = json.loads(handle.read())
        return f"process {holder['pid']} on {holder['host']}"
    except ValueError:  # the other process has locked the file, but not written to it yet
        return "another process"


@contextlib.contextmanager
def _hint() -> Iterator[None]:
    """Adds to the message of a DataError what to do."""
    try:
        yield
    except DataError as error:
        message = str(error)
        raise DataError(message if message.endswith(REBUILD) else f"{message}; {REBUILD}") from error


def _with_valid_keys(record: dict) -> dict:
    """The content of config.json with a valid value of every key; keys that are newer than the run get their defaults.

    The default of a new key keeps what the program did before. A group without any key is damage.
    """
    config, added = dict(record["config"]), []
    for key, declared in KEYS.items():
        group, _, name = key.rpartition(".")
        values = config.get(group)
        if isinstance(values, dict) and values and name not in values:
            config[group] = values | {name: plain(declared.default)}
            added.append(key)
    if added:
        warn_once(f"config.json is of an older version, without {', '.join(added)}: using their defaults")
    record = record | {"config": config}
    if problems := key_problems(from_json(record["config"])):
        raise DataError(f"config.json is damaged, or of another version: {'; '.join(problems[:3])}")
    return record


def _require_possible(path: pathlib.Path) -> None:
    """Raises UsageError for a path that is not UTF-8 (checkpoints cannot be written to it), or too long."""
    try:
        str(path).encode("utf-8")
        os.lstat(path / ("x" * 255))  # the files of a run have long names
    except UnicodeEncodeError as error:
        raise UsageError(f"--workdir={str(path)!a}: not UTF-8; choose another name") from error
    except ValueError as error:
        raise UsageError(f"--workdir={str(path)!a}: {error}") from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UsageError(f"--workdir={str(path)[:60]}…: {error.strerror}; choose another") from error
