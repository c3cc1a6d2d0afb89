"""Checkpoints, written by Orbax and verified by checksums.

Orbax (0.12) has no checksums: it silently restores a flipped bit, silently casts another dtype, and fails if the newest
step is damaged although an older one is intact. Therefore each step stores the sha256 of every array and of its
metadata; restoring verifies them and falls back to the next intact step.
"""

import contextlib
import dataclasses
import gc
import logging
import math
import pathlib
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from cifar_jax.errors import DataError, UsageError
from cifar_jax.runs.checksums import leaf_checksums, listed, require_same_leaves
from cifar_jax.runs.json_files import json_checksum, plain
from cifar_jax.runs.metadata import is_empty, read_meta, steps
from cifar_jax.runs.orbax_errors import cause, unreadable


class Restored(NamedTuple):
    """A restored and verified checkpoint."""

    state: Any  # as saved, with the requested shardings
    metadata: dict
    step: int


class _DamagedError(Exception):
    """A damaged step; caught in this module."""


class Checkpoints:
    """The checkpoints in one directory: the latest `keep`, and the best by validation accuracy, if there is one.

    Reading does not change the directory, so a run can be evaluated while it trains. If there are several processes,
    all of them must call `save`, `wait`, `close` and the restoring methods.
    """

    def __init__(self, directory: pathlib.Path, *, keep: int):
        self._directory = pathlib.Path(directory).absolute()
        self._keep = keep
        self._accuracy: dict[int, float] = {}  # by step; a step in mid-epoch has none
        self._damaged: set[int] = set()
        self._manager: ocp.CheckpointManager | None = None
        self._saving: int | None = None  # the step that is being written

    def steps(self) -> list[int]:
        """All steps on disk, in ascending order, including damaged ones."""
        return steps(self._directory)

    def save(self, step: int, state: Any, metadata: Mapping, *, val_accuracy: float | None) -> None:
        """Starts writing a checkpoint; returns as soon as `state` may be overwritten.

        Args:
            step: above all existing steps.
            state: pytree of jax.Arrays, replicated or split over the devices of all processes.
            metadata: JSON values: preprocessing, class names, epoch.
            val_accuracy: 0 to 1, or None in mid-epoch and without a validation split. None and non-finite values never
                count as best.

        Raises:
            DataError: this or the previous checkpoint could not be written.
            ValueError: `step` is not above all existing steps.
        """
        self.wait()
        manager = self._manager or self._open()
        if val_accuracy is not None and not math.isfinite(val_accuracy):
            val_accuracy = None
        content = {"metadata": metadata, "leaves": leaf_checksums(state), "val_accuracy": val_accuracy}
        content = plain(content)
        meta = {**content, "sha256": json_checksum(content)}
        if val_accuracy is not None:
            self._accuracy[step] = val_accuracy
        self._saving = step
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))
        if not self._reporting_failure(lambda: manager.save(step, args=args)):
            raise ValueError(f"step {step} is not above the checkpoints in {self._directory}: {manager.all_steps()}")

    def wait(self) -> None:
        """Blocks until the current checkpoint is on disk.

        Raises:
            DataError: it could not be written.
        """
        if self._manager is not None:
            self._reporting_failure(self._manager.wait_until_finished)
            self._saving = None

    def close(self) -> None:
        """Waits for the current checkpoint and stops the writing threads.

        Raises:
            DataError: the last checkpoint could not be written.
        """
        if self._manager is None:
            return
        try:
            self.wait()
        finally:
            manager, self._manager = self._manager, None
            manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind, error, traceback) -> None:
        """Closes; an error of the block is the one to report."""
        try:
            self.close()
        except DataError:
            if error is None:
                raise

    def restore_latest(self, abstract_state: Any) -> Restored | None:
        """The newest intact step, or None if nothing has been saved yet.

        Args:
            abstract_state: pytree of jax.ShapeDtypeStruct with shardings, over any number of devices.

        Raises:
            DataError: no step is intact (none is removed), or the checkpoint belongs to another model.
        """
        return self._restore_first(reversed(self.steps()), abstract_state)

    def restore_best(self, abstract_state: Any) -> Restored | None:
        """The intact step with the best validation accuracy, or the newest if none has one; see `restore_latest`."""
        return self._restore_first(self._best_first(), abstract_state)

    def restore(self, step: int, abstract_state: Any) -> Restored:
        """The given step.

        Raises:
            UsageError: there is no such step.
            DataError: it is damaged, or belongs to another model.
        """
        if step not in self.steps():
            raise UsageError(f"no checkpoint of step {step} in {self._directory}; existing steps: {self.steps()}")
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
                details = "; ".join(damages)
                logging.warning("damaged checkpoint in %s (%s): using step %d", self._directory, details, step)
            return restored
        if damages:
            raise DataError(f"no checkpoint in {self._directory} is intact ({'; '.join(damages)}); none was removed")
        return None

    def _restore(self, step: int, abstract_state: Any) -> Restored:
        meta = self._read_meta(step)
        require_same_leaves(meta["leaves"], abstract_state, self._directory / str(step))
        state = self._read_state(step, abstract_state)
        checksums = leaf_checksums(state)
        wrong = [name for name, leaf in meta["leaves"].items() if checksums[name] != leaf]
        if wrong:
            raise _DamagedError(f"wrong checksum of {listed(wrong)}")
        return Restored(state, meta["metadata"], step)

    def _read_state(self, step: int, abstract_state: Any) -> Any:
        where = self._directory / str(step)
        with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
            try:
                with ocp.StandardCheckpointer() as reader:
                    return reader.restore(where / "state", abstract_state)
            except jax.errors.JaxRuntimeError:  # such as out of memory: the checkpoint is not at fault
                raise
            except Exception as error:  # Orbax and TensorStore raise any type, even Exception, for damage
                damage = unreadable(error, where)
            gc.collect()  # reads that Orbax abandoned: their warnings are ignored inside this block
        raise _DamagedError(damage)

    def _read_meta(self, step: int) -> dict:
        try:
            return read_meta(self._directory / str(step))
        except DataError as error:
            raise _DamagedError(str(error)) from error

    def _accuracies(self) -> dict[int, float | None]:
        """The validation accuracy of each step with intact metadata, or None, see `save`."""
        accuracies = {}
        for step in self.steps():
            with contextlib.suppress(_DamagedError):
                accuracies[step] = self._read_meta(step)["val_accuracy"]
        return accuracies

    def _best_first(self) -> list[int]:
        """Steps with damaged metadata come first: any of them may be the best, and trying it reports the damage."""
        accuracy = self._accuracies()
        known = {step: -math.inf if value is None else value for step, value in accuracy.items()}
        return sorted(self.steps(), key=lambda step: (known.get(step, math.inf), step), reverse=True)

    def _open(self) -> ocp.CheckpointManager:
        """Creates the manager that writes. It is created late, so that reading does not change the directory."""
        if jax.process_index() == 0:
            self._move_damaged_steps()  # the manager starts with a barrier, so all processes see the same steps
        managers = ocp.checkpoint_managers
        options = ocp.CheckpointManagerOptions(
            preservation_policy=managers.AnyPreservationPolicy(
                [managers.LatestN(self._keep), _KeepBest(self._accuracy)]
            ),
            save_decision_policy=managers.FixedIntervalPolicy(1),
            cleanup_tmp_directories=True,  # left by a killed run
            async_options=ocp.AsyncOptions(timeout_secs=10**8),  # of the system's clock, which may jump ahead
            lightweight_initialize=True,  # do not read the metadata of old steps, which may be damaged
        )
        self._manager = ocp.CheckpointManager(self._directory, options=options)
        accuracies = self._accuracies()
        self._accuracy.update({step: value for step, value in accuracies.items() if value is not None})
        return self._manager

    def _move_damaged_steps(self) -> None:
        """Renames damaged steps, because Orbax never writes a step at or below an existing one."""
        if not self._directory.is_dir():
            return
        for path in self._directory.iterdir():
            if path.name.isdecimal() and path.is_dir() and is_empty(path):
                path.rmdir()
        for step in self._damaged:
            path = self._directory / str(step)
            shutil.rmtree(path.with_name(f"{step}.damaged"), ignore_errors=True)
            path.rename(path.with_name(f"{step}.damaged"))
        self._damaged.clear()

    def _reporting_failure(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except Exception as error:  # a writing thread of Orbax or TensorStore raises any type
            step, self._saving = self._saving, None
            self._accuracy.pop(step, None)
            kept = "earlier checkpoints stay usable" if set(self.steps()) - {step} else "there is no earlier checkpoint"
            raise DataError(
                f"checkpoint of step {step} could not be written to {self._directory}: {cause(error)}; {kept}"
            ) from error


@dataclasses.dataclass
class _KeepBest(ocp.checkpoint_managers.PreservationPolicy):
    """Preserves the best step. (Orbax's BestN reads files that may be damaged, and fails with NaN.)"""

    accuracy: dict[int, float]

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        known = [(self.accuracy[info.step], info.step) for info in checkpoints if info.step in self.accuracy]
        return [bool(known) and info.step == max(known)[1] for info in checkpoints]
