"""The run folder: one directory from which every mode but training finds all it needs."""

import contextlib
import dataclasses
import json
import logging
import os
import pathlib
import socket
from collections.abc import Iterator, Mapping
from typing import IO

from cifar_jax.config import validate as run_config
from cifar_jax.config.keys import FREE_KEYS
from cifar_jax.errors import DataError, UsageError
from cifar_jax.files.atomic import atomic_path

try:
    import fcntl
except ImportError:  # Windows: no file locks of this kind, and so no protection against a second run
    fcntl = None


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The names of all files of one run. Nothing is created before `claim`, `lock` or `write_json`."""

    path: pathlib.Path

    def __post_init__(self):
        object.__setattr__(self, "path", pathlib.Path(self.path).absolute())

    @property
    def config_json(self) -> pathlib.Path:
        return self.path / "config.json"

    @property
    def architecture_json(self) -> pathlib.Path:
        return self.path / "architecture.json"

    @property
    def history_json(self) -> pathlib.Path:
        return self.path / "history.json"

    @property
    def results_json(self) -> pathlib.Path:
        return self.path / "results.json"

    @property
    def probe_json(self) -> pathlib.Path:
        return self.path / "probe.json"

    @property
    def checkpoints_dir(self) -> pathlib.Path:
        return self.path / "checkpoints"

    @property
    def figures_dir(self) -> pathlib.Path:
        return self.path / "figures"

    @property
    def tensorboard_dir(self) -> pathlib.Path:
        return self.path / "tensorboard"

    @property
    def report_html(self) -> pathlib.Path:
        return self.path / "report.html"

    def evaluation_dir(self, split: str) -> pathlib.Path:
        return self.path / "evaluation" / split

    def require_same(self, config: Mapping) -> None:
        """Refuses a folder that holds a run of another configuration; reads only.

        Args:
            config: as for `claim`.

        Raises:
            UsageError: naming the keys that differ.
            DataError: if its config.json cannot be read.
        """
        if self.config_json.exists():
            changed = run_config.differences(read_json(self.config_json).get("config", {}), config)
            changed = [line for line in changed if line.split(":")[0] not in FREE_KEYS]
            if changed:
                raise UsageError(
                    f"{self.path} holds a run of another configuration ({'; '.join(changed)}): "
                    "choose another --workdir or the same configuration"
                )

    def claim(self, config: Mapping, command: str, *, data: Mapping, backbone: Mapping | None = None) -> None:
        """Makes the folder the one of this configuration, and writes config.json. Call it under `lock`.

        Args:
            config: plain nested dicts, as `runs.config.to_json` gives them.
            command: what the user typed.
            data: name and fingerprints of the data set.
            backbone: what identifies the pretrained weights, and their architecture.

        Raises:
            UsageError: if the folder cannot be made, or holds a run of another configuration (left as it is).
            DataError: if its config.json cannot be read.
        """
        self.require_same(config)
        self._create()
        write_json(self.config_json, {"config": config, "command": command, "data": data, "backbone": backbone})

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps other processes out of this folder until the block ends, or this process does.

        Raises:
            UsageError: at once, naming the process that has the folder, or if the folder cannot be made.
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
        except OSError as error:  # a file of that name among them
            raise UsageError(f"--workdir={self.path} cannot be made: {error.strerror}; choose another") from error


def _holder(handle: IO[str]) -> str:
    handle.seek(0)
    try:
        holder = json.loads(handle.read())
        return f"process {holder['pid']} on {holder['host']}"
    except ValueError:  # between its locking and its writing
        return "another process"


def write_json(path: pathlib.Path, value: object) -> None:
    """Writes `value` whole or not at all: under a temporary name, to the disk, then renamed.

    Raises:
        ValueError: if `value` holds a number that is not finite.
        DataError: if the file cannot be written, such as on a full disk.
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
    """Reads a file of the run folder.

    Raises:
        DataError: naming the file, if it is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; is this the folder of a run?") from error
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}") from error


class History:
    """history.json: one list per column, one element per finished epoch; on disk it is always whole."""

    COLUMNS = (
        "epoch",
        "loss",
        "accuracy",
        "val_loss",
        "val_accuracy",
        "learning_rate",
        "images_per_second",
        "seconds",
    )

    def __init__(self, path: pathlib.Path, *, writes: bool = True):
        """Goes on with the history at `path`, or begins one.

        Args:
            writes: False in all but one of several processes: they keep the columns and leave the file alone.

        Raises:
            DataError: if there is one that cannot be read.
        """
        self._path, self._writes = path, writes
        self.columns: dict[str, list] = {name: [] for name in self.COLUMNS}
        if path.exists():
            self.columns.update(read_json(path))

    def __len__(self) -> int:
        return len(self.columns["epoch"])

    def append(self, row: Mapping[str, float | None]) -> None:
        """Adds an epoch, and writes the file.

        Raises:
            ValueError: if `row` has other columns.
            DataError: if the file cannot be written.
        """
        if row.keys() != self.columns.keys():
            raise ValueError(f"a row of the history has the columns {list(self.columns)}, not {list(row)}")
        longer = {name: [*values, row[name]] for name, values in self.columns.items()}
        if self._writes:
            write_json(self._path, longer)
        self.columns = longer

    def truncate(self, epoch: int) -> None:
        """Drops the epochs after `epoch`, since training goes on from a checkpoint of that one."""
        kept = [i for i, known in enumerate(self.columns["epoch"]) if known <= epoch]
        self.columns = {name: [values[i] for i in kept] for name, values in self.columns.items()}
        if self._writes and self._path.exists():
            write_json(self._path, self.columns)
