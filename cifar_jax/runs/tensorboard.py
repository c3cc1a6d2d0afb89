"""TensorBoard event files, written without TensorFlow."""

from pathlib import Path

import tensorboardX


class Events:
    """Scalars over steps in one folder."""

    def __init__(self, directory: Path, *, first_step: int):
        """Goes on at `first_step`: TensorBoard hides what an interrupted run had written after it."""
        self._writer = tensorboardX.SummaryWriter(str(directory), purge_step=first_step, flush_secs=30)

    def write(self, step: int, scalars: dict[str, float]) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()
