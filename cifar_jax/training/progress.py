"""What a person sees while training runs: a progress bar in a terminal, plain lines elsewhere."""

import sys
import time

from rich.console import Console as RichConsole
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class Console:
    """Shows progress on stderr; silent in all processes but the first."""

    def __init__(self, *, total_steps: int, first_step: int, batch_size: int, enabled: bool):
        self._enabled = enabled
        self._batch_size = batch_size
        self._last = (time.perf_counter(), first_step)
        self._progress = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            TextColumn("loss {task.fields[loss]:.4f} accuracy {task.fields[accuracy]:.2%}"),
            TextColumn("{task.fields[speed]:,.0f} images/s"),
            TimeRemainingColumn(),
            console=RichConsole(stderr=True),
            disable=not (enabled and sys.stderr.isatty()),
        )
        fields = {"epoch": "-", "loss": float("nan"), "accuracy": float("nan"), "speed": 0.0}
        self._task = self._progress.add_task("", total=total_steps, completed=first_step, **fields)

    def __enter__(self) -> "Console":
        self._progress.start()
        return self

    def __exit__(self, *exception) -> None:
        self._progress.stop()

    def update(self, step: int, *, epoch: int, loss: float, accuracy: float) -> float:
        """Moves the bar to `step`; returns the images a second since the last call."""
        now = time.perf_counter()
        then, before = self._last
        speed = (step - before) * self._batch_size / (now - then)
        self._last = (now, step)
        self._progress.update(self._task, completed=step, epoch=epoch, loss=loss, accuracy=accuracy, speed=speed)
        return speed

    def restart_clock(self) -> None:
        """What passed since the last `update` was no training: leave it out of the speed."""
        self._last = (time.perf_counter(), self._last[1])

    def line(self, text: str) -> None:
        """Prints a line above the bar, or just a line."""
        if not self._enabled:
            return
        if self._progress.disable:
            print(text, file=sys.stderr, flush=True)
        else:
            self._progress.console.print(text, highlight=False)
