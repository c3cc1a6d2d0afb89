"""`--mode predict`: class and probabilities of image files, from a run folder alone."""

import contextlib
import dataclasses
import itertools
import json
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
from rich.table import Table
from rich.text import Text

from cifar_jax.data import ImageSet, batches, decode
from cifar_jax.devices import replicate
from cifar_jax.errors import DataError, UsageError
from cifar_jax.evaluation.evaluate import fitted_temperature, with_tta
from cifar_jax.evaluation.logits import compile_predict
from cifar_jax.files.atomic import atomic_path
from cifar_jax.metrics.calibration import softmax
from cifar_jax.runs.run_folder import RunFolder
from cifar_jax.training.restore import restore_network, start_devices

LARGEST_BATCH = 128  # small, so that one batch is decoded while the devices work on the one before


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a network says about one image.

    Attributes:
        file: the image.
        probabilities_K: float64, of each class; they sum to 1.
        calibrated_K: the same after temperature scaling; None where no temperature was fitted on this checkpoint.
    """

    file: Path
    probabilities_K: np.ndarray
    calibrated_K: np.ndarray | None


class Predictor:
    """The network of a run with its preprocessing; neither data nor training are needed.

    Images become what the run was trained on: the shorter side is resized to the side of the training images
    (bicubic, antialiased), the center square is kept, and from there on all is done as in evaluation. So of a image
    that is not square the ends are not seen, and a image of the training size gets the very probabilities that
    evaluation gives it.

    Attributes:
        class_names: K names.
        step: of the checkpoint.
        tta: whether test-time augmentation is on.
    """

    def __init__(self, workdir: str | Path, *, checkpoint: str = "best", tta: bool | None = None):
        """Restores a checkpoint.

        Args:
            workdir: the run folder.
            checkpoint: 'best', 'latest' or the number of a step.
            tta: test-time augmentation; None = as the run's configuration says.

        Raises:
            UsageError: no such checkpoint, or not a run folder.
            DataError: no checkpoint is whole.
        """
        experiment, restored = restore_network(workdir, checkpoint=checkpoint)
        self.class_names, self.step = experiment.dataset.class_names, restored.step
        self.tta = with_tta(experiment.config, "test") if tta is None else tta
        self._temperature = fitted_temperature(RunFolder(Path(workdir)), step=restored.step, tta=self.tta)
        self._mesh, self._variables = experiment.mesh, restored.state.variables
        self._largest_batch = min(experiment.config.evaluation.batch_size, LARGEST_BATCH)
        # Where a checkpoint does not say, the training images were as the network takes them.
        self._image_size = restored.metadata.get("image_size", experiment.preprocessing.image_size)
        self._predict = compile_predict(experiment.mesh, forward=experiment.logits, tta=self.tta)

    def __call__(self, files: Sequence[Path]) -> Iterator[Prediction]:
        """Predictions of all files that can be read, in order; the others are named in the log, and left out."""
        # Each batch is dispatched before the logits of the one before are waited for.
        for (read, logits), _ in itertools.pairwise(itertools.chain(self._dispatched(files), [None])):
            yield from self._predictions(read, jax.device_get(logits)[: len(read)])

    def _dispatched(self, files: Sequence[Path]) -> Iterator[tuple[list[Path], jax.Array]]:
        """The files of each batch that could be read, and their logits (with rows too many) on the devices."""
        # Few different sizes, each a compiled program that the next call finds in the cache.
        at_most = min(self._largest_batch, 1 << (len(files) - 1).bit_length())
        batch_size = math.ceil(at_most / self._mesh.size) * self._mesh.size
        indices_B = replicate(np.arange(batch_size, dtype=np.int32), self._mesh)
        with ThreadPoolExecutor() as threads:
            for start in range(0, len(files), batch_size):
                some = files[start : start + batch_size]
                decoded = zip(some, threads.map(self._read, some), strict=True)
                read = {file: image_HWC for file, image_HWC in decoded if image_HWC is not None}
                if read:
                    logits = self._predict(self._variables, self._placed(list(read.values()), batch_size), indices_B)
                    yield list(read), logits["tta" if self.tta else "plain"]

    def _read(self, file: Path) -> np.ndarray | None:
        try:
            return decode.read(file, size=self._image_size)
        except DataError as error:
            logging.warning("%s", error)
            return None

    def _placed(self, images: list[np.ndarray], batch_size: int) -> batches.DeviceSplit:
        """A batch on the devices, filled up with black images without meaning, as are all labels."""
        images_NHWC = np.zeros((batch_size, *images[0].shape), np.uint8)
        images_NHWC[: len(images)] = images
        return batches.place(ImageSet(images_NHWC, np.zeros(batch_size, np.int32), self.class_names), self._mesh)

    def _predictions(self, files: list[Path], logits_NK: np.ndarray) -> Iterator[Prediction]:
        probabilities_NK = softmax(logits_NK)
        calibrated_NK = softmax(logits_NK / self._temperature) if self._temperature else [None] * len(files)
        return map(Prediction, files, probabilities_NK, calibrated_NK)


def predict(
    workdir: str | Path, files: Sequence[Path], *, checkpoint: str, tta: bool | None, output: str
) -> tuple[Table, int]:
    """Predicts image files, and writes a line of JSON for each.

    Args:
        workdir, checkpoint, tta: see `Predictor`.
        files: at least one.
        output: a file of JSON lines: `file`, `class`, its `probability`, `probabilities` by class, and
            `calibrated_probabilities`, null where none are known. It is there when all is done. '' = none.

    Returns:
        The table for people, and how many files could not be read.

    Raises:
        UsageError, DataError: see `Predictor`; or `output` cannot be written.
    """
    start_devices(workdir)
    with json_lines(output) if output else contextlib.nullcontext() as write:
        predictor = Predictor(workdir, checkpoint=checkpoint, tta=tta)
        names = predictor.class_names
        views = ", with test-time augmentation" if predictor.tta else ""
        table = Table(title=f"{Path(workdir).absolute().name}, step {predictor.step}{views}")
        table.add_column("file", overflow="fold")
        table.add_column("class", overflow="fold")
        table.add_column("probability", justify="right", no_wrap=True)
        table.add_column("second class", overflow="fold")
        for prediction in predictor(files):
            table.add_row(*_row(prediction, names))
            if write:
                write(as_json(prediction, names))
    return table, len(files) - table.row_count


def _row(prediction: Prediction, class_names: Sequence[str]) -> tuple[Text, ...]:
    best, second = np.argsort(-prediction.probabilities_K, kind="stable")[:2]
    texts = (
        str(prediction.file),
        class_names[best],
        f"{prediction.probabilities_K[best]:.2%}",
        f"{class_names[second]} {prediction.probabilities_K[second]:.2%}",
    )
    return tuple(map(Text, texts))  # as they are: brackets in a name are no markup


def as_json(prediction: Prediction, class_names: Sequence[str]) -> dict:
    """A line of the output, with seven significant digits, which is what float32 has."""

    def by_class(values_K):
        return {name: float(f"{value:.7g}") for name, value in zip(class_names, values_K, strict=True)}

    best = class_names[prediction.probabilities_K.argmax()]
    probabilities = by_class(prediction.probabilities_K)
    return {
        "file": str(prediction.file),
        "class": best,
        "probability": probabilities[best],
        "probabilities": probabilities,
        "calibrated_probabilities": None if prediction.calibrated_K is None else by_class(prediction.calibrated_K),
    }


@contextlib.contextmanager
def json_lines(path: str) -> Iterator[Callable[[dict], None]]:
    """`write(value)` adds a line to a file that has its name only when the block has ended without an error.

    Raises:
        UsageError: at once, if it cannot be written.
    """
    target = Path(path)
    if target.is_dir():
        raise UsageError(f"--output={path} is a folder: name a file in it")
    with contextlib.ExitStack() as stack:
        try:
            temporary = stack.enter_context(atomic_path(target))
            file = stack.enter_context(open(temporary, "w", encoding="utf-8"))
        except OSError as error:
            raise UsageError(f"--output={path} cannot be written: {error.strerror}; choose another path") from error
        yield lambda value: file.write(json.dumps(value) + "\n")
