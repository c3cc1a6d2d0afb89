"""Checkpoints: Orbax writes them; here they get a digest of every array, so that none is ever restored wrong.

Orbax (0.12) has no checksums: a flipped bit is restored silently, another dtype is cast silently, and a
damaged newest step is an error although an older one is whole. So each step carries the sha256 of every array
and of its own metadata; restoring verifies them, and falls back to the next step that is whole.
"""

import dataclasses
import gc
import json
import logging
import math
import os
import pathlib
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from cifar_jax.errors import DataError, UsageError
from cifar_jax.runs.checksums import json_checksum, leaf_checksums, listed, require_same_leaves

# Orbax logs a failure as pages of traceback, and then raises it too: the exception becomes one line below.
# When one read fails it abandons the others, which end as tracebacks of asyncio and TensorStore's threads.
_ORBAX_SOURCES = tuple(str(pathlib.Path(folder).resolve()) for folder in ocp.__path__)
_ABANDONED = ("Event loop is closed", "Encountered error while reading array index", "tensorstore", "orbax")
_previous_hook = sys.unraisablehook


def _is_news(text: str) -> bool:
    return not any(sign in text for sign in _ABANDONED)


def _unraisable_hook(unraisable) -> None:
    if _is_news(str(unraisable.exc_value)):
        _previous_hook(unraisable)


sys.unraisablehook = _unraisable_hook
logging.getLogger("absl").addFilter(lambda record: not record.pathname.startswith(_ORBAX_SOURCES))
logging.getLogger("asyncio").addFilter(lambda record: _is_news(record.getMessage()))

_JSON = ocp.JsonCheckpointHandler()  # read without a checkpointer, whose barriers would need every process


class Restored(NamedTuple):
    """A checkpoint read back and verified.

    Attributes:
        state: as saved, with the shardings that were asked for.
        metadata: as saved.
        step: of the checkpoint.
    """

    state: Any
    metadata: dict
    step: int


class _DamagedError(Exception):
    """What of a step is damaged; never leaves this module."""


class Checkpoints:
    """The checkpoints in one directory: the latest `keep`, and the best by validation accuracy.

    Reading leaves the directory as it is, so that a run may be evaluated while it trains. In a program of
    several processes all of them call `save`, `wait`, `close` and the restoring methods alike.
    """

    def __init__(self, directory: pathlib.Path, *, keep: int):
        self._directory = pathlib.Path(directory).absolute()
        self._keep = keep
        self._accuracy: dict[int, float] = {}  # of the steps the manager knows; a step in mid-epoch has none
        self._damaged: set[int] = set()
        self._manager: ocp.CheckpointManager | None = None
        self._saving: int | None = None  # the step that is being written

    def steps(self) -> list[int]:
        """All steps that are on the disk, ascending, damaged ones among them."""
        if not self._directory.is_dir():
            return []
        numbered = (path for path in self._directory.iterdir() if path.name.isdecimal() and path.is_dir())
        return sorted(int(path.name) for path in numbered if not _is_empty(path))

    def best_step(self) -> int | None:
        """The step of the best validation accuracy; where none has one, the newest; None without steps."""
        return next(iter(self._best_first()), None)

    def read_metadata(self, step: int) -> dict:
        """What was saved beside the state of `step`, without reading that.

        Raises:
            UsageError: if there is no such step.
            DataError: if it is damaged.
        """
        self._require(step)
        try:
            return self._read_meta(step)["metadata"]
        except _DamagedError as error:
            raise DataError(f"checkpoint {self._directory / str(step)} is damaged: {error}") from error

    def save(self, step: int, state: Any, metadata: Mapping, *, val_accuracy: float | None) -> None:
        """Begins to write a checkpoint, and returns as soon as `state` may be overwritten.

        Args:
            step: above all that are there.
            state: pytree of jax.Arrays of numbers; with several processes each array is fully replicated.
            metadata: what JSON can hold: preprocessing, class names, epoch, history.
            val_accuracy: 0 to 1; None in mid-epoch. None, and what is not finite, never counts as best.

        Raises:
            DataError: if this or the previous checkpoint could not be written.
            ValueError: if `step` is not above those that are there.
        """
        self.wait()
        manager = self._manager or self._open()
        if val_accuracy is not None and not math.isfinite(val_accuracy):
            val_accuracy = None
        content = {"metadata": metadata, "leaves": leaf_checksums(state), "val_accuracy": val_accuracy}
        content = json.loads(json.dumps(content, allow_nan=False))  # as it will be read: keys are strings, say
        meta = {**content, "sha256": json_checksum(content)}
        if val_accuracy is not None:
            self._accuracy[step] = val_accuracy
        self._saving = step
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))
        if not self._reporting_failure(lambda: manager.save(step, args=args)):
            raise ValueError(f"step {step} is not above the checkpoints in {self._directory}: {manager.all_steps()}")

    def wait(self) -> None:
        """Blocks until the checkpoint that is being written is on the disk.

        Raises:
            DataError: if it could not be written.
        """
        if self._manager is not None:
            self._reporting_failure(self._manager.wait_until_finished)
            self._saving = None

    def close(self) -> None:
        """`wait`, and ends the threads that write.

        Raises:
            DataError: if the last checkpoint could not be written.
        """
        if self._manager is None:
            return
        try:
            self.wait()
        finally:
            manager, self._manager = self._manager, None
            manager.close()

    def restore_latest(self, abstract_state: Any) -> Restored | None:
        """The newest step that is whole, or None where nothing was saved yet.

        Args:
            abstract_state: pytree of jax.ShapeDtypeStruct with shardings, any number of devices.

        Raises:
            DataError: if no step is whole (all stay where they are), or if they are of another model.
        """
        return self._restore_first(reversed(self.steps()), abstract_state)

    def restore_best(self, abstract_state: Any) -> Restored | None:
        """As `restore_latest`, from the best step (see `best_step`) to the worst."""
        return self._restore_first(self._best_first(), abstract_state)

    def restore(self, step: int, abstract_state: Any) -> Restored:
        """This very step.

        Raises:
            UsageError: if there is no such step.
            DataError: if it is damaged, or of another model.
        """
        self._require(step)
        try:
            return self._restore(step, abstract_state)
        except _DamagedError as error:
            raise DataError(f"checkpoint {self._directory / str(step)} is damaged: {error}") from error

    def _restore_first(self, steps: Sequence[int], abstract_state: Any) -> Restored | None:
        damages = []
        for step in steps:
            try:
                restored = self._restore(step, abstract_state)
            except _DamagedError as error:
                self._damaged.add(step)
                damages.append(f"step {step}: {error}")
                continue
            if damages:
                found = "; ".join(damages)
                logging.warning("damaged checkpoint in %s (%s): step %d is taken", self._directory, found, step)
            return restored
        if damages:
            raise DataError(f"no checkpoint in {self._directory} is whole ({'; '.join(damages)}); all stay as they are")
        return None

    def _restore(self, step: int, abstract_state: Any) -> Restored:
        meta = self._read_meta(step)
        require_same_leaves(meta["leaves"], abstract_state, self._directory / str(step))
        state = self._read_state(step, abstract_state)
        digests = leaf_checksums(state)
        wrong = [name for name, leaf in meta["leaves"].items() if digests[name] != leaf]
        if wrong:
            raise _DamagedError(f"wrong digest of {listed(wrong)}")
        return Restored(state, meta["metadata"], step)

    def _read_state(self, step: int, abstract_state: Any) -> Any:
        where = self._directory / str(step)
        with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
            try:
                with ocp.StandardCheckpointer() as reader:
                    return reader.restore(where / "state", abstract_state)
            except jax.errors.JaxRuntimeError:  # out of memory, say: no fault of the checkpoint
                raise
            except Exception as error:  # Orbax and TensorStore raise even bare Exceptions for damage
                damage = _unreadable(error, where)
            gc.collect()  # the reads that Orbax began and abandoned: here their warnings are ignored
        raise _DamagedError(damage)

    def _read_meta(self, step: int) -> dict:
        try:
            meta = _JSON.restore(self._directory / str(step) / "meta")
            whole = isinstance(meta, dict) and meta.pop("sha256", None) == json_checksum(meta)
        except (OSError, ValueError) as error:
            raise _DamagedError(f"its metadata cannot be read ({_first_line(error)})") from error
        if not whole:
            raise _DamagedError("wrong digest of its metadata")
        return meta

    def _accuracies(self) -> dict[int, float]:
        """The validation accuracy of each step that has one and whose metadata are whole."""
        found = {}
        for step in self.steps():
            try:
                accuracy = self._read_meta(step)["val_accuracy"]
            except _DamagedError:
                continue
            if accuracy is not None:
                found[step] = accuracy
        return found

    def _best_first(self) -> list[int]:
        accuracy = self._accuracies()
        return sorted(self.steps(), key=lambda step: (accuracy.get(step, -math.inf), step), reverse=True)

    def _require(self, step: int) -> None:
        if step not in self.steps():
            raise UsageError(f"no checkpoint of step {step} in {self._directory}; there are {self.steps()}")

    def _open(self) -> ocp.CheckpointManager:
        """Makes the manager that writes. Only here, so that reading changes nothing on the disk."""
        if jax.process_index() == 0:
            self._clear_the_way()  # the manager begins with a barrier: all processes see the same steps
        managers = ocp.checkpoint_managers
        options = ocp.CheckpointManagerOptions(
            preservation_policy=managers.AnyPreservationPolicy(
                [managers.LatestN(self._keep), _KeepBest(self._accuracy)]
            ),
            save_decision_policy=managers.FixedIntervalPolicy(1),
            cleanup_tmp_directories=True,  # what a killed run was writing
            lightweight_initialize=True,  # reads no metadata of old steps, which may be damaged
        )
        self._manager = ocp.CheckpointManager(self._directory, options=options)
        self._accuracy.update(self._accuracies())
        return self._manager

    def _clear_the_way(self) -> None:
        """Renames the damaged steps, since Orbax never writes a step at or below one that is there."""
        if not self._directory.is_dir():
            return
        for path in self._directory.iterdir():
            if path.name.isdecimal() and path.is_dir() and _is_empty(path):
                path.rmdir()
        for step in self._damaged:
            path = self._directory / str(step)
            shutil.rmtree(path.with_name(f"{step}.damaged"), ignore_errors=True)
            path.rename(path.with_name(f"{step}.damaged"))
        self._damaged.clear()

    def _reporting_failure(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except Exception as error:  # whatever a writing thread of Orbax or TensorStore has raised
            step, self._saving = self._saving, None
            self._accuracy.pop(step, None)
            raise DataError(
                f"checkpoint of step {step} could not be written to {self._directory}: {_cause(error)}; "
                "earlier checkpoints stay usable"
            ) from error


@dataclasses.dataclass
class _KeepBest(ocp.checkpoint_managers.PreservationPolicy):
    """Preserves the best step. (Orbax' own BestN reads files that may be damaged, and is misled by NaN.)"""

    accuracy: dict[int, float]

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        known = [(self.accuracy[info.step], info.step) for info in checkpoints if info.step in self.accuracy]
        return [bool(known) and info.step == max(known)[1] for info in checkpoints]


def _is_empty(path: pathlib.Path) -> bool:
    try:
        return not any(path.iterdir())
    except FileNotFoundError:  # the run that trains has removed it meanwhile
        return True


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _unreadable(error: Exception, where: pathlib.Path) -> str:
    """The damaged file or array, where TensorStore's page of nested errors names one, the innermost last."""
    text = f"{error} {error.__cause__}"
    files = re.findall(r'local file "([^"]*[^"/])"', text)
    arrays = re.findall(r'"([^"/]+)/[^"/]*" in OCDBT database', text)
    if files:
        return f"its file {os.path.relpath(files[-1], where)} cannot be read"
    if arrays:
        return f"its array {arrays[-1]} cannot be read"
    return f"its state cannot be read ({type(error).__name__}: {_first_line(error)})"


def _cause(error: Exception) -> str:
    full = any(sign in str(error) for sign in ("RESOURCE_EXHAUSTED", "No space left", "Disk quota exceeded"))
    return "the disk is full" if full else _first_line(error)
