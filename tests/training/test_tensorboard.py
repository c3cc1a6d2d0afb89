"""Event files: TensorBoard reads them, and a disk that is full neither blocks nor prints."""

import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from cifar_jax.training.tensorboard import TensorBoard

ROOT = Path(__file__).parents[2]
STEPS = {"total_steps": 4, "steps_per_epoch": 2}
LOGGED = {"loss": 0.5, "accuracy": 0.25, "learning_rate": 1e-3, "images_per_second": 9.0}


def read(directory: Path, name: str) -> list[tuple[int, float]]:
    with warnings.catch_warnings(action="ignore"):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(directory))
        events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def write(directory: Path, *, first_step: int, loss: float) -> None:
    board = TensorBoard(directory)
    board.on_start(first_step=first_step, **STEPS)
    for step in range(first_step, 4):
        board.on_log(step, LOGGED | {"loss": loss})
    board.on_epoch(4, {"epoch": 2, "val_loss": loss, "seconds": 3.0})
    board.close()


def test_tensorboard_reads_the_scalars(tmp_path):
    directory = tmp_path / "new" / "folder"
    write(directory, first_step=0, loss=0.5)
    assert read(directory, "train/loss") == [(step, 0.5) for step in range(4)]
    assert read(directory, "train/learning_rate") == [(step, pytest.approx(1e-3)) for step in range(4)]
    assert read(directory, "val_loss") == [(4, 0.5)]


def test_a_resumed_run_replaces_the_steps_that_it_repeats(tmp_path):
    write(tmp_path, first_step=0, loss=0.5)
    write(tmp_path, first_step=2, loss=0.75)
    assert read(tmp_path, "train/loss") == [(0, 0.5), (1, 0.5), (2, 0.75), (3, 0.75)]
    assert read(tmp_path, "val_loss") == [(4, 0.75)]


def test_a_full_disk_is_an_error_of_the_write_and_nothing_else(tmp_path):
    """The disk is replaced by a limit of the file size, in a separate process."""
    program = f"""
import pathlib, resource
from cifar_jax.training.tensorboard import TensorBoard
board = TensorBoard(pathlib.Path({str(tmp_path)!r}))
board.on_start(first_step=0, **{STEPS})
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
try:
    for step in range(1000):
        board.on_log(step, {LOGGED})
except OSError as error:
    print(error.strerror)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "File too large\n", "")
