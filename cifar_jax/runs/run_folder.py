"""The run folder: the files of one run. All modes that use a finished run only need this folder."""

import contextlib
import json
import logging
import os
import pathlib
import socket
from collections.abc import Iterator, Mapping
from typing import IO

from cifar_jax.config.keys import FREE_KEYS
from cifar_jax.config.validate import differences
from cifar_jax.errors import DataError, UsageError
from cifar_jax.files.atomic import atomic_path

try:
    import fcntl
except ImportError:  # Windows has no such locks: a second run in the same folder is not detected
    fcntl = None


class RunFolder:
    """The paths of one run. Only `claim`, `lock` and `write_json` create anything."""

    def __init__(self, path: pathlib.Path):
        self.path = path = pathlib.Path(path).absolute()
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

    def require_same(self, config: Mapping) -> None:
        """Raises UsageError, with the keys that differ, if the folder holds a run of another configuration."""
        if not self.config_json.exists():
            return
        changed = differences(read_json(self.config_json).get("config", {}), config)
        changed = [line for line in changed if line.split(":")[0] not in FREE_KEYS]
        if changed:
            hint = "choose another --workdir or the same configuration"
            if self.results_json.exists() and not any(line.startswith("model.") for line in changed):
                hint += f"; to train on from its weights: --workdir=NEW --config.train.init_from={self.path}"
            raise UsageError(f"{self.path} holds a run of another configuration ({'; '.join(changed)}): {hint}")

    def claim(
        self,
        config: Mapping,
        command: str,
        *,
        data: Mapping,
        backbone: Mapping | None = None,
        initial_weights: Mapping | None = None,
    ) -> None:
        """Writes config.json. Call it under `lock`.

        Args:
            config: plain nested dicts, see `config.validate.to_json`.
            command: as the user typed it.
            data: name and fingerprints of the data set.
            backbone: identity and architecture of the pretrained weights.
            initial_weights: identity of the weights of `train.init_from`.

        Raises:
            UsageError: the folder cannot be created, or holds a run of another configuration, which stays unchanged.
            DataError: its config.json cannot be read.
        """
        self.require_same(config)
        self._create()
        origins = {"backbone": backbone, "initial_weights": initial_weights}
        write_json(self.config_json, {"config": config, "command": command, "data": data, **origins})

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


def write_json(path: pathlib.Path, value: object) -> None:
    """Writes `value` atomically and flushes it to disk.

    Raises:
        ValueError: a number in `value` is not finite.
        DataError: the file cannot be written, for example on a full disk.
    """
    text = json.dumps(value, allow_nan=False, indent=1)
    try:
        with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise DataError(
            f"{path} could not be written: {error.strerror}; earlier checkpoints stay usable, "
            "the same command continues from the newest"
        ) from error


def read_json(path: pathlib.Path) -> dict:
    """Reads a file of the run folder; raises DataError if it is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; is this the folder of a run?") from error
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}") from error


class History:
    """history.json: one list per column, one element per finished epoch."""

    COLUMNS = ("epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "images_per_second", "seconds")

    def __init__(self, path: pathlib.Path, *, writes: bool = True):
        """Continues the history at `path`, or starts one. Only one process `writes` the file."""
        self._path, self._writes = path, writes
        self.columns: dict[str, list] = {name: [] for name in self.COLUMNS}
        if path.exists():
            self.columns.update(read_json(path))

    def __len__(self) -> int:
        return len(self.columns["epoch"])

    def append(self, row: Mapping[str, float | None]) -> None:
        """Adds an epoch and writes the file.

        Raises:
            ValueError: `row` has other columns.
            DataError: the file cannot be written.
        """
        if row.keys() != self.columns.keys():
            raise ValueError(f"a row of the history has the columns {list(self.columns)}, not {list(row)}")
        longer = {name: [*values, row[name]] for name, values in self.columns.items()}
        if self._writes:
            write_json(self._path, longer)
        self.columns = longer

    def truncate(self, epoch: int) -> None:
        """Drops the epochs after `epoch`, from which training resumes."""
        kept = [i for i, known in enumerate(self.columns["epoch"]) if known <= epoch]
        self.columns = {name: [values[i] for i in kept] for name, values in self.columns.items()}
        if self._writes and self._path.exists():
            write_json(self._path, self.columns)
