"""Progress: a bar in a terminal or a notebook, and one line per epoch on the command line."""

import html
import logging
import os
import sys

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from cifar_jax.training.hooks import Hook

log = logging.getLogger(__name__)


def progress_hook() -> Hook:
    """A progress bar for the terminal or the notebook; without either, only one line per epoch."""
    if "ipykernel" in sys.modules:
        return NotebookProgress()
    # A shell command in a notebook cell runs in a terminal, but its control characters are printed.
    in_notebook_shell = {"JPY_PARENT_PID", "COLAB_RELEASE_TAG"} & os.environ.keys()
    return TerminalProgress() if sys.stderr.isatty() and not in_notebook_shell else LineProgress()


class LineProgress(Hook):
    """One line per epoch, up to 80 columns, logged at level INFO: only the command line shows it."""

    optional = "the progress bar"

    def on_start(self, *, first_step: int, total_steps: int, steps_per_epoch: int) -> None:
        self.total_steps, self.steps_per_epoch = total_steps, steps_per_epoch
        self.show(first_step, "starting ...")

    def on_compile(self) -> None:
        self.show(None, "compiling ...")

    def on_log(self, step: int, values: dict[str, float]) -> None:
        speed = f"{values['images_per_second']:,.0f} images/s"
        self.show(step, f"loss {values['loss']:.4f}, acc {values['accuracy']:.2%}, {speed}")

    def on_epoch(self, step: int, row: dict[str, float]) -> None:
        seconds = f"{row['seconds']:.1f} s" if row["seconds"] < 100 else f"{row['seconds']:.0f} s"
        self.line(f"epoch {row['epoch']}/{self.total_steps // self.steps_per_epoch}: {_scores(row)}, {seconds}")

    def show(self, step: int | None, text: str) -> None:
        """Updates the bar; if `step` is None, the position stays."""

    def line(self, text: str) -> None:
        log.info("%s", text)


def _scores(row: dict[str, float]) -> str:
    """Of the training images and, if there is a validation split, of its images."""
    train = f"loss {row['loss']:.4f}, acc {row['accuracy']:.2%}"
    if "val_loss" not in row:
        return train
    return f"{train}, val loss {row['val_loss']:.4f}, val acc {row['val_accuracy']:.2%}"


class _Steps(ProgressColumn):
    def render(self, task) -> Text:
        return Text(f"step {task.completed:.0f}/{task.total:.0f}")


class TerminalProgress(LineProgress):
    """A bar below the lines of the epochs."""

    def on_start(self, **steps: int) -> None:
        columns = (
            BarColumn(bar_width=10),
            _Steps(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(compact=True),
        )
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task("", total=steps["total_steps"])
        self._progress.start()
        super().on_start(**steps)

    def show(self, step: int | None, text: str) -> None:
        self._progress.update(self._task, completed=step, description=text)

    def line(self, text: str) -> None:
        if log.isEnabledFor(logging.INFO):
            self._progress.console.print(text, highlight=False)

    def close(self) -> None:
        self._progress.stop()


class NotebookProgress(LineProgress):
    """A bar in the output of a notebook cell, updated in place without widgets."""

    _display = None

    def on_epoch(self, step: int, row: dict[str, float]) -> None:
        self.show(step, f"epoch {row['epoch']}: {_scores(row)}")

    def show(self, step: int | None, text: str) -> None:
        from IPython import display

        self._step = self._step if step is None else step
        bar = f'<progress value="{self._step}" max="{self.total_steps}"></progress>'
        content = display.HTML(f"{bar} step {self._step:,}/{self.total_steps:,}, {html.escape(text)}")
        if self._display is None:
            self._display = display.display(content, display_id=True)
        else:
            self._display.update(content)
