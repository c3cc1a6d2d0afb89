"""Training: from a configuration to a run folder that is evaluated and can be restored."""

import contextlib
import dataclasses
import logging
import signal
import statistics
import time
from pathlib import Path

import jax
from ml_collections import ConfigDict

from cifar_jax import devices, memory
from cifar_jax import experiment as experiments
from cifar_jax.config import validate as run_config
from cifar_jax.data import batches
from cifar_jax.errors import CifarJaxError
from cifar_jax.evaluation import features
from cifar_jax.evaluation.evaluate import SplitEvaluator
from cifar_jax.experiment import Experiment
from cifar_jax.probe import fit_head
from cifar_jax.runs.checkpoints import Checkpoints
from cifar_jax.runs.run_folder import History, RunFolder, read_json
from cifar_jax.runs.tensorboard import Events
from cifar_jax.training import input_check, results
from cifar_jax.training.progress import Console
from cifar_jax.training.restore import require_same_backbone, require_same_data
from cifar_jax.training.signals import Interrupted, StopSignal
from cifar_jax.training.state import TrainState, abstract_state, initial_state, update_schedule
from cifar_jax.training.step import compile_epoch_order, compile_steps


class NotFiniteError(CifarJaxError):
    """The loss became infinite or not a number."""


def train(config: ConfigDict, workdir: str | Path, *, command: str = "", allow_fallback: bool = True) -> dict:
    """Trains, or goes on where it was interrupted, and evaluates the best checkpoint once on the test split.

    Args:
        config: see `cifar_jax.config`; validated here.
        workdir: the run folder; made where it is not there.
        command: what the user typed, for config.json and the message that says how to go on.
        allow_fallback: train on drawn shapes where the data cannot be had (never with several processes).

    Returns:
        What stands in results.json.

    Raises:
        UsageError, DataError: see `cifar_jax.errors`.
        NotFiniteError: the loss is not finite; the last good checkpoint is kept.
        Interrupted: SIGINT or SIGTERM, after the state is saved.
    """
    run_config.validate(config)
    folder = RunFolder(Path(workdir))
    _require_same_configuration(config, folder)
    experiment = experiments.build(config, allow_fallback=allow_fallback and jax.process_count() == 1)
    experiments.require_divisible(experiment)
    if experiment.backbone and config.model.check_input and not folder.config_json.exists():
        input_check.require_right_scale(experiment)
    # Only the first process writes; the others read what it wrote before they started.
    with folder.lock() if devices.is_first_process() else contextlib.nullcontext():
        if folder.config_json.exists():
            recorded = read_json(folder.config_json)
            require_same_data(experiment, recorded["data"])
            require_same_backbone(experiment, recorded.get("backbone"))
        if devices.is_first_process():
            folder.claim(
                run_config.to_json(experiment.config),
                command,
                data=experiment.data_description,
                backbone=experiment.backbone and experiment.backbone.description,
            )
        if folder.results_json.exists():
            logging.info("%s: already finished", folder.path)
            return read_json(folder.results_json)
        return _Run(experiment, folder, command).to_the_end()


def _require_same_configuration(config: ConfigDict, folder: RunFolder) -> None:
    """Refuses the folder of another configuration before any data are read, and before they are compared.

    Raises:
        UsageError: naming the keys that differ.
    """
    if not folder.config_json.exists():
        return
    wanted = run_config.to_json(config)
    if read_json(folder.config_json)["data"]["is_fallback"]:  # recorded with fewer epochs than asked for
        wanted["train"]["epochs"] = min(wanted["train"]["epochs"], experiments.FALLBACK_EPOCHS)
    folder.require_same(wanted)


class _Run:
    """One training run: state on the devices, files in the run folder."""

    def __init__(self, experiment: Experiment, folder: RunFolder, command: str):
        config = experiment.config
        self.experiment, self.folder, self.command, self.config = experiment, folder, command, config
        self.steps_per_epoch = experiment.steps_per_epoch
        self.writes = devices.is_first_process()
        self.log_every = config.train.log_every_steps or max(1, self.steps_per_epoch // 10)
        self.on_cpu = experiment.mesh.devices.flat[0].platform == "cpu"
        self.steps_per_dispatch = config.train.steps_per_dispatch or (1 if self.on_cpu else self.log_every)
        self.checkpoints = Checkpoints(folder.checkpoints_dir, keep=config.checkpoint.keep)
        self.schedule = update_schedule(experiment)
        self.run = compile_steps(experiment)
        self.programs = {}
        self.described = not self.writes
        self.compile_seconds = 0.0

    def to_the_end(self) -> dict:
        """Trains the epochs that are missing, then evaluates the best checkpoint."""
        state = self._restored_or_initial()
        first_step = int(state.step)
        self.history = History(self.folder.history_json, writes=self.writes)
        self.history.truncate(first_step // self.steps_per_epoch)
        self.validation = SplitEvaluator(self.experiment, "validation", variables=state.variables, tta=False)
        self.data = self._placed_training_data(state)
        self._epoch_order = compile_epoch_order(self.experiment)
        self.events = Events(self.folder.tensorboard_dir, first_step=first_step) if self.writes else None
        self.console = Console(
            total_steps=self.experiment.total_steps,
            first_step=first_step,
            batch_size=self.config.train.batch_size,
            enabled=self.writes,
        )
        with self.console, StopSignal() as self.stop, contextlib.closing(self.checkpoints):
            if self.config.optimizer.name == "lbfgs":
                state = self._fit_probe(state)
            else:
                for epoch in range(first_step // self.steps_per_epoch, self.config.train.epochs):
                    state = self._epoch(state, epoch)
        self._describe_start()
        if self.events:
            self.events.close()
        del self.data  # evaluation places every split anew
        memory.tidy()
        return results.finish(
            self.experiment, self.folder, self.checkpoints, self.history, compile_seconds=self.compile_seconds
        )

    def _restored_or_initial(self) -> TrainState:
        restored = self.checkpoints.restore_latest(abstract_state(self.experiment))
        if restored is None:
            return initial_state(self.experiment)
        logging.info("going on after step %d of %d", restored.step, self.experiment.total_steps)
        return restored.state

    def _placed_training_data(self, state: TrainState) -> batches.DeviceSplit:
        if self.config.train.cached_features:
            return features.place_features(self.experiment, "train", state.variables)
        return batches.place(self.experiment.splits["train"], self.experiment.mesh)

    def _fit_probe(self, state: TrainState) -> TrainState:
        """The head at one go, in place of all epochs: a single row in the history."""
        started = time.perf_counter()
        head, row = fit_head.fit_head(self.experiment, self.folder, state.variables)
        state = state.replace(step=state.step + self.experiment.total_steps, params=state.params | {"head": head})
        return self._finish_epoch(state, {"epoch": 1, **row}, started)

    def _epoch(self, state: TrainState, epoch: int) -> TrainState:
        """Trains to the end of one epoch (from its start, or from where a checkpoint lies), validates and saves."""
        started = time.perf_counter()
        state, speed = self._steps(state, stop_at=(epoch + 1) * self.steps_per_epoch)
        sums = jax.device_get(state.metrics)
        memory.tidy()  # before and after: what training and validation leave behind must not add up
        validation = self.validation.summaries(self.validation.logits(state.variables))["plain"]
        memory.tidy()
        row = {
            "epoch": epoch + 1,
            "loss": float(sums.loss_sum) / int(sums.count),
            "accuracy": int(sums.correct) / int(sums.count),
            "val_loss": validation["loss"],
            "val_accuracy": validation["accuracy"],
            "learning_rate": self._learning_rate(int(state.step) - 1),
            "images_per_second": speed,
        }
        return self._finish_epoch(state, row, started)

    def _finish_epoch(self, state: TrainState, row: dict, started: float) -> TrainState:
        """Writes an epoch's row of the history, saves the state and says how it went."""
        row["seconds"] = time.perf_counter() - started
        self.history.append(row)
        if self.writes:
            self.events.write(int(state.step), {name: value for name, value in row.items() if name != "epoch"})
        self._save(state, val_accuracy=row["val_accuracy"])
        self.console.line(
            f"epoch {row['epoch']}/{self.config.train.epochs}: loss {row['loss']:.4f}, accuracy {row['accuracy']:.2%}, "
            f"validation loss {row['val_loss']:.4f}, accuracy {row['val_accuracy']:.2%}, "
            f"{row['images_per_second']:,.0f} images/s, {row['seconds']:.1f} s"
        )
        return state

    def _steps(self, state: TrainState, *, stop_at: int) -> tuple[TrainState, float]:
        """Trains up to step `stop_at`, the end of the epoch. Nothing crosses to the host but the metrics, now and then.

        Returns:
            The state and the median of images a second.
        """
        step = int(state.step)
        order_EB = self._epoch_order(state.step)
        speeds, in_flight = [], None
        self.console.restart_clock()
        while step < stop_at:
            following = self._next_stop(step)
            program = self._program(state, order_EB, steps=following - step)
            with jax.transfer_guard("disallow"):
                state, sums = program(state, self.data, order_EB)
            self._describe_start()
            # One dispatch ahead, no more: a signal is obeyed within two. None on CPU: it would take a gigabyte more.
            jax.block_until_ready(sums if self.on_cpu else in_flight)
            step, in_flight = following, sums
            logs = step % self.steps_per_epoch % self.log_every == 0
            if logs:
                speeds.append(self._log(step, sums))
            if number := self.stop.number(agree=logs):
                self._stop(state, number)
            if self.config.checkpoint.every_steps and step % self.config.checkpoint.every_steps == 0 and step < stop_at:
                self._save(state, val_accuracy=None)
        self._require_finite(jax.device_get(sums))
        return state, statistics.median(speeds)

    def _describe_start(self) -> None:
        """Once, and not before the first step is on its way: nobody waits for the figures, and all for that."""
        if not self.described:
            results.describe_start(self.experiment, self.folder)
            self.described = True
            self.console.restart_clock()

    def _next_stop(self, step: int) -> int:
        """Where the next dispatch ends: at the latest where the host has something to do."""
        in_epoch = step % self.steps_per_epoch
        to_log = self.log_every - in_epoch % self.log_every
        stops = [self.steps_per_dispatch, self.steps_per_epoch - in_epoch, to_log]
        if every := self.config.checkpoint.every_steps:
            stops.append(every - step % every)
        return step + min(stops)

    def _program(self, state: TrainState, order_EB: jax.Array, *, steps: int):
        """The training step compiled for `steps` batches a call, from the cache or by compiling now."""
        if steps not in self.programs:
            started = time.perf_counter()
            self.programs[steps] = self.run.lower(state, self.data, order_EB, steps=steps).compile()
            self.compile_seconds += time.perf_counter() - started
            memory.tidy()
            self.console.restart_clock()
        return self.programs[steps]

    def _log(self, step: int, sums) -> float:
        """Reads the metrics of the epoch so far and shows them; returns the images a second since the last time."""
        sums = jax.device_get(sums)
        self._require_finite(sums)
        loss, accuracy = float(sums.loss_sum) / int(sums.count), int(sums.correct) / int(sums.count)
        speed = self.console.update(step, epoch=(step - 1) // self.steps_per_epoch + 1, loss=loss, accuracy=accuracy)
        if self.writes:
            rate = self._learning_rate(step - 1)
            self.events.write(step, {"train/loss": loss, "train/accuracy": accuracy, "train/learning_rate": rate})
        return speed

    def _learning_rate(self, step: int) -> float:
        """The learning rate of the update that batch `step` (from 0) takes part in."""
        peak = self.config.optimizer.learning_rate
        return peak * float(self.schedule(step // self.config.optimizer.accumulate_steps))

    def _require_finite(self, sums) -> None:
        if int(sums.first_bad_step) < 0:
            return
        self.checkpoints.wait()
        kept = self.checkpoints.steps()
        raise NotFiniteError(
            f"the loss is not finite at step {int(sums.first_bad_step) + 1}: lower --config.optimizer.learning_rate "
            f"or set --config.optimizer.clip_norm, with a new --workdir; checkpoints kept in {self.folder.path}: "
            f"{kept or 'none'}"
        )

    def _save(self, state: TrainState, *, val_accuracy: float | None) -> None:
        if val_accuracy is None:
            self._require_finite(jax.device_get(state.metrics))
        metadata = {
            "epoch": int(state.step) / self.steps_per_epoch,
            "preprocessing": dataclasses.asdict(self.experiment.preprocessing),
            "stored_size": self.experiment.splits["train"].images_NHWC.shape[1],
            "data": self.experiment.data_description,
        }
        self.checkpoints.save(int(state.step), state, metadata, val_accuracy=val_accuracy)

    def _stop(self, state: TrainState, number: int) -> None:
        """Saves the state where it is, and ends the run with the command that goes on."""
        step = int(state.step)
        if step not in self.checkpoints.steps():
            self._save(state, val_accuracy=None)
        self.checkpoints.wait()
        raise Interrupted(
            f"stopped by {signal.Signals(number).name} after step {step} of {self.experiment.total_steps}, "
            "state saved; "
            f"go on with: {self.command or 'the same call'}",
            signal_number=number,
        )
