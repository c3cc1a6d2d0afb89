"""TensorBoard event files, written without TensorFlow."""

from pathlib import Path

import tensorboardX

from cifar_jax.training.hooks import Hook


class TensorBoard(Hook):
    """Writes the metrics of the training loop as scalars per step."""

    def __init__(self, directory: Path):
        self._directory = directory

    def on_start(self, *, first_step: int, **steps: int) -> None:
        # purge_step: TensorBoard hides what an interrupted run wrote after the step from which this one resumes.
        self._writer = tensorboardX.SummaryWriter(str(self._directory), purge_step=first_step, flush_secs=30)

    def on_log(self, step: int, values: dict[str, float]) -> None:
        self._write(step, {f"train/{name}": values[name] for name in ("loss", "accuracy", "learning_rate")})

    def on_epoch(self, step: int, row: dict[str, float]) -> None:
        self._write(step, {name: value for name, value in row.items() if name != "epoch"})

    def _write(self, step: int, scalars: dict[str, float]) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()
