"""The training loop: trains an experiment and fills its run folder."""

import contextlib
import dataclasses
import logging
import signal
import statistics
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np

from cifar_jax import devices, memory, processes
from cifar_jax.data.batches import place
from cifar_jax.devices import is_first_process
from cifar_jax.errors import CifarJaxError
from cifar_jax.evaluation import features
from cifar_jax.evaluation.evaluate import SplitEvaluator
from cifar_jax.experiment import Experiment
from cifar_jax.probe.fit_head import fit_head
from cifar_jax.runs.checkpoints import Checkpoints
from cifar_jax.runs.history import History
from cifar_jax.runs.run_folder import RunFolder
from cifar_jax.signals import Interrupted, StopSignal
from cifar_jax.training import results
from cifar_jax.training.hooks import Hook, Hooks
from cifar_jax.training.progress import progress_hook
from cifar_jax.training.state import (
    TrainState,
    abstract_state,
    device_bytes,
    initial_state,
    require_room,
    update_schedule,
)
from cifar_jax.training.step import EpochOrder, compile_epoch_order, compile_steps
from cifar_jax.training.tensorboard import TensorBoard

log = logging.getLogger(__name__)


class NotFiniteError(CifarJaxError):
    """The loss became infinite or NaN."""


class Trainer:
    """One training run: state on the devices, files in the run folder."""

    def __init__(self, experiment: Experiment, folder: RunFolder, *, record: dict, hooks: Sequence[Hook]):
        """`record`: the content of config.json, of which every checkpoint keeps a copy."""
        config = experiment.config
        self.experiment, self.folder, self.record, self.config = experiment, folder, record, config
        self.steps_per_epoch, self.batch_size = experiment.steps_per_epoch, config.train.batch_size
        self.log_every = experiment.log_every_steps
        self.on_cpu = devices.platform_of(experiment.mesh) == "cpu"
        self.writes = is_first_process()
        self.hooks = Hooks([progress_hook(), TensorBoard(folder.tensorboard_dir), *hooks] if self.writes else [])
        self.checkpoints = Checkpoints(folder.checkpoints_dir, keep=config.checkpoint.keep)
        self.schedule = update_schedule(experiment)
        self.validates = "validation" in experiment.splits
        self.history = History(folder.history_json, with_validation=self.validates, writes=self.writes)
        self.compile_seconds = 0.0

    def fit(self) -> dict:
        """Trains the remaining epochs and evaluates the best checkpoint; returns the content of results.json.

        Without a validation split, the last checkpoint is evaluated.
        """
        processes.resume = self._how_to_resume
        require_room(self.experiment)
        state = self._restored_or_initial()
        started = time.perf_counter()  # the first epoch counts the features of a frozen backbone
        self._prepare(state)
        steps = {"total_steps": self.experiment.total_steps, "steps_per_epoch": self.steps_per_epoch}
        with self.hooks.running(first_step=int(state.step), **steps), StopSignal() as self.stop, self.checkpoints:
            while int(state.step) < self.experiment.total_steps:
                if self.config.optimizer.name == "lbfgs":
                    state, row = self._fit_probe(state)
                else:
                    state, speed = self._train_epoch(state)
                    row = self._row(state, speed)
                self._record(state, row | {"seconds": time.perf_counter() - started})
                if number := self.stop.number(agree=True):
                    self._stop(state, number)
                started = time.perf_counter()
            self._describe_start()
        del self.data, self.validation  # the final evaluation places every split again
        memory.tidy()
        return results.finish(
            self.experiment, self.folder, self.checkpoints, self.history, compile_seconds=self.compile_seconds
        )

    def _how_to_resume(self) -> str:
        steps = self.checkpoints.steps()
        return f"start all again, {f'they resume from step {steps[-1]}' if steps else 'nothing is saved yet'}"

    def _restored_or_initial(self) -> TrainState:
        restored = self.checkpoints.restore_latest(abstract_state(self.experiment))
        if restored is None:
            return initial_state(self.experiment)
        if restored.step < self.experiment.total_steps:
            log.info("resuming after step %d of %d", restored.step, self.experiment.total_steps)
        self.history.resume(restored.metadata, epoch=restored.step // self.steps_per_epoch)
        self.compile_seconds = restored.metadata.get("compile_seconds", 0.0)
        return restored.state

    def _prepare(self, state: TrainState) -> None:
        """Prepares the splits on the devices, and the programs, which compile on first use."""
        settings = {"variables": state.variables, "tta": False}
        self.validation = SplitEvaluator(self.experiment, "validation", **settings) if self.validates else None
        if self.config.train.cached_features:
            self.data = features.place_features(self.experiment, "train", state.variables)
        else:
            self.data = place(self.experiment.splits["train"], self.experiment.mesh)
        self._epoch_order = compile_epoch_order(self.experiment)
        self._seed = devices.replicate(np.int32(self.config.train.seed), self.experiment.mesh)
        self._run_steps, self._programs = compile_steps(self.experiment), {}
        self._is_described = not self.writes
        self._restart_clock(int(state.step))

    def _fit_probe(self, state: TrainState) -> tuple[TrainState, dict]:
        """Fits the head in a single optimization, which replaces all epochs: the history has one row."""
        head, row = fit_head(self.experiment, self.folder, state.variables)
        state = state.replace(step=state.step + self.experiment.total_steps, params=state.params | {"head": head})
        return state, {"epoch": 1, **row}

    def _train_epoch(self, state: TrainState) -> tuple[TrainState, float]:
        """Trains to the end of the epoch; returns the state and the median speed in images/s."""
        step = int(state.step)
        end = (step // self.steps_per_epoch + 1) * self.steps_per_epoch
        order = self._epoch_order(state.step, self._seed)
        speeds, in_flight = [], None
        self._restart_clock(step)
        with contextlib.closing(self.data.batches(order.rows_EB, start=step % self.steps_per_epoch)) as batches:
            while step < end:
                next_step, data = self._next_stop(step), next(batches)
                program = self._program(state, data, order, steps=next_step - step)
                self.hooks.call("before_steps", step)
                with jax.transfer_guard("disallow"), devices.naming_batch("train.batch_size", self.batch_size):
                    state, metrics = program(state, data, order)
                self.hooks.call("after_steps", next_step, metrics)
                self._describe_start()
                # At most one dispatch ahead, so that a signal stops the run within two. On CPU that would take a
                # gigabyte more: no dispatch ahead.
                jax.block_until_ready(metrics if self.on_cpu else in_flight)
                step, in_flight = next_step, metrics
                logs = step % self.steps_per_epoch % self.log_every == 0
                if logs:
                    speeds.append(self._log(step, metrics))
                if step < end and (number := self.stop.number(agree=logs)):  # at the end: after validation
                    self._stop(state, number)
                if self.config.checkpoint.every_steps and step % self.config.checkpoint.every_steps == 0 and step < end:
                    self._save(state, val_accuracy=None)
        self._require_finite(jax.device_get(metrics))
        return state, statistics.median(speeds)

    def _row(self, state: TrainState, speed: float) -> dict:
        """Validates; returns the epoch's row of the history, without its seconds."""
        return {
            "epoch": int(state.step) // self.steps_per_epoch,
            **_means(jax.device_get(state.metrics)),
            **(self._validated(state) if self.validates else {}),
            "learning_rate": self._learning_rate(int(state.step) - 1),
            "images_per_second": speed,
        }

    def _validated(self, state: TrainState) -> dict:
        memory.tidy()  # before and after, so that the memory of training and validation does not add up
        summary = self.validation.summaries(self.validation.logits(state.variables))["plain"]
        memory.tidy()
        return {"val_loss": summary["loss"], "val_accuracy": summary["accuracy"]}

    def _record(self, state: TrainState, row: dict) -> None:
        """Writes an epoch's row of the history and saves the state."""
        self.folder.require_present()
        self.history.append(row)
        self._save(state, val_accuracy=row.get("val_accuracy"))
        self.hooks.call("on_epoch", int(state.step), row)

    def _describe_start(self) -> None:
        """Runs once, after the first dispatch, so that training does not wait for the figures of the data."""
        if not self._is_described:
            self.folder.require_present()
            results.describe_start(self.experiment, self.folder)
            self._is_described = True
            self._restart_clock()

    def _next_stop(self, step: int) -> int:
        """The end of the next dispatch: the host must log, save or validate there at the latest."""
        in_epoch = step % self.steps_per_epoch
        to_log = self.log_every - in_epoch % self.log_every
        stops = [self.experiment.steps_per_dispatch, self.steps_per_epoch - in_epoch, to_log]
        if every := self.config.checkpoint.every_steps:
            stops.append(every - step % every)
        return step + min(stops)

    def _program(self, state: TrainState, data, order: EpochOrder, *, steps: int) -> Callable:
        """The training step compiled for `steps` batches per call; DataError if it does not fit into memory."""
        image_size = self.experiment.training_size(int(state.step) // self.steps_per_epoch)
        if (steps, image_size) not in self._programs:
            self.hooks.call("on_compile")
            started = time.perf_counter()
            lowered = self._run_steps.lower(state, data, order, steps=steps, image_size=image_size)
            self._programs[steps, image_size] = devices.compile_to_fit(
                lowered,
                self.experiment.mesh,
                key="train.batch_size",
                batch_size=self.batch_size,
                fixed_bytes=2 * device_bytes(state.params),  # gradients and updates
            )
            self.compile_seconds += time.perf_counter() - started
            memory.tidy()
            processes.wait_for_all(
                f"program of {steps} steps at {image_size} pixels"
            )  # a collective waits only 30 s for a slow compilation
            self._restart_clock()
        return self._programs[steps, image_size]

    def _restart_clock(self, step: int | None = None) -> None:
        """Excludes the time since the last `_log` from the speed."""
        self._clock = (time.perf_counter(), self._clock[1] if step is None else step)

    def _log(self, step: int, metrics) -> float:
        """Reads the metrics of the epoch so far; returns the speed since the last call in images/s."""
        metrics = jax.device_get(metrics)
        self._require_finite(metrics)
        before, first_step = self._clock
        self._restart_clock(step)
        speed = (step - first_step) * self.batch_size / (self._clock[0] - before)
        values = {
            "learning_rate": self._learning_rate(step - 1),
            "images_per_second": speed,
        }
        self.hooks.call("on_log", step, _means(metrics) | values)
        return speed

    def _learning_rate(self, step: int) -> float:
        """The learning rate of the update to which batch `step` (from 0) contributes."""
        peak = self.config.optimizer.learning_rate
        return peak * float(self.schedule(step // self.config.optimizer.accumulate_steps))

    def _require_finite(self, metrics) -> None:
        if int(metrics.first_bad_step) < 0:
            return
        self.checkpoints.wait()
        raise NotFiniteError(
            f"the loss is not finite at step {int(metrics.first_bad_step) + 1}: lower --config.optimizer.learning_rate "
            f"or set --config.optimizer.clip_norm, with a new --workdir; checkpoints kept in {self.folder.path}: "
            f"{self.checkpoints.steps() or 'none'}"
        )

    def _save(self, state: TrainState, *, val_accuracy: float | None) -> None:
        if val_accuracy is None:
            self._require_finite(jax.device_get(state.metrics))
        metadata = {
            "epoch": int(state.step) / self.steps_per_epoch,
            "preprocessing": dataclasses.asdict(self.experiment.preprocessing),
            "stored_size": self.experiment.splits["train"].images_NHWC.shape[1],
            "data": self.experiment.data_description,
            "history": self.history.columns,
            "compile_seconds": self.compile_seconds,
            "run": self.record,
        }
        self.folder.require_present()
        self.checkpoints.save(int(state.step), state, metadata, val_accuracy=val_accuracy)

    def _stop(self, state: TrainState, number: int) -> None:
        """Saves the state and ends the run with the command that resumes it."""
        step = int(state.step)
        self.checkpoints.wait()
        if step not in self.checkpoints.steps():
            self._save(state, val_accuracy=None)
            self.checkpoints.wait()
        raise Interrupted(
            f"stopped by {signal.Signals(number).name} after step {step} of {self.experiment.total_steps}, "
            f"state saved; resume with: {self.record['command'] or 'the same call'}",
            signal_number=number,
        )


def _means(metrics) -> dict[str, float]:
    return {
        "loss": float(metrics.loss_sum) / int(metrics.count),
        "accuracy": int(metrics.correct) / int(metrics.count),
    }
