"""A finished or interrupted run, read from its folder."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
from ml_collections import ConfigDict

from cifar_jax.config.validate import from_json
from cifar_jax.errors import UsageError
from cifar_jax.files.cache import expanded
from cifar_jax.preprocessing.preprocess import Preprocessing
from cifar_jax.runs.run_folder import RunFolder
from cifar_jax.training.restore import restore_network, start_devices


@dataclasses.dataclass(frozen=True)
class Run:
    """The files of a run as Python values; each property reads its file on access, and raises DataError for damage.

    Attributes:
        path: the run folder.
    """

    path: Path

    @property
    def config(self) -> ConfigDict:
        """The resolved configuration; `train` accepts it for another run."""
        return from_json(RunFolder(self.path).recorded()["config"])

    @property
    def history(self) -> dict[str, list]:
        """The content of history.json: one list per column, one element per finished epoch."""
        return RunFolder(self.path).history()

    @property
    def results(self) -> dict:
        """The content of results.json; only a finished run has it."""
        return RunFolder(self.path).results()

    @property
    def figures(self) -> dict[str, Path]:
        """The PNG files in figures/, by name: 'curves', 'confusion_matrix', ..."""
        return {file.stem: file for file in sorted(RunFolder(self.path).figures_dir.glob("*.png"))}

    def model(self, checkpoint: str = "best") -> tuple[Callable, dict, Preprocessing]:
        """The trained network.

            apply, variables, preprocessing = run.model()
            logits_NK = apply(variables, preprocessing(images_NHWC))

        Args:
            checkpoint: 'best', 'latest' or the number of a step.

        Returns:
            `apply(variables, inputs_NHWC)`, compiled, which returns float32 logits (N, K); `variables`, with params and
            batch_stats; and `preprocessing`, which turns uint8 images (N, H, W, 3) into the network's input.
        """
        start_devices(self.path)
        experiment, restored = restore_network(self.path, checkpoint=checkpoint)

        @jax.jit
        def apply(variables: dict, inputs_NHWC: jax.Array) -> jax.Array:
            return experiment.model.apply(variables, inputs_NHWC, train=False)

        return apply, restored.state.variables, experiment.preprocessing


def load_run(workdir: str | Path) -> Run:
    """Opens a run folder.

    Raises:
        UsageError: the folder contains no run.
    """
    path = expanded(workdir)
    if not RunFolder(path).is_run:
        raise UsageError(f"{path} has no config.json: name the folder of a run")
    return Run(path)
