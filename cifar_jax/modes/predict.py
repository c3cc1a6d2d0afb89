"""`--mode predict`: class and probabilities of images, from a run folder alone."""

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
from rich.table import Column, Table
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

LARGEST_BATCH = 128  # small, so that one batch is decoded while the devices compute the previous one

Images = Sequence[Path] | np.ndarray


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The prediction for one image.

    Attributes:
        image: the file, or the row number where the images are an array.
        class_name: of the most probable class.
        probability: of that class, 0 to 1.
        probabilities: float64 of each class by name; they sum to 1.
        calibrated_probabilities: after temperature scaling; None if no temperature was fitted on this checkpoint.
    """

    image: Path | int
    class_name: str
    probability: float
    probabilities: dict[str, float]
    calibrated_probabilities: dict[str, float] | None


def predict(
    workdir: str | Path,
    images: str | Path | Sequence[str | Path] | np.ndarray,
    *,
    checkpoint: str = "best",
    tta: bool | None = None,
) -> list[Prediction]:
    """Predicts the classes of images with the network of a run.

    Args:
        workdir: the run folder.
        images: files, folders and globs, or an array: uint8 (N, H, W, 3), RGB, any height and width.
        checkpoint: 'best', 'latest' or the number of a step.
        tta: test-time augmentation; None = as the run's configuration says.

    Returns:
        One prediction per image, in order.

    Raises:
        UsageError: no such image, checkpoint or run; an array of another shape or dtype.
        DataError: an image cannot be read, or all checkpoints are damaged.
    """
    if not isinstance(images, np.ndarray):
        images = decode.find_image_files([str(images)] if isinstance(images, str | Path) else list(map(str, images)))
    elif images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise UsageError(f"images: {images.dtype} {images.shape}; expected uint8 (N, H, W, 3), RGB")
    start_devices(workdir)
    predictor = Predictor(workdir, checkpoint=checkpoint, tta=tta)
    predictions = list(predictor(images))
    if errors := predictor.errors:
        raise DataError(f"{len(errors)} of {len(images)} images cannot be read: {errors[0]}")
    return predictions


class Predictor:
    """The network of a run with its preprocessing; the data set is not needed.

    The shorter side of an image is resized to the stored size of the training images (bicubic, antialiased), and the
    center square is kept. The rest is as in evaluation: an image of the stored size gets the same probabilities.

    Attributes:
        class_names: K names.
        step: of the checkpoint.
        tta: whether test-time augmentation is on.
        errors: one line per image that could not be read.
    """

    def __init__(self, workdir: str | Path, *, checkpoint: str = "best", tta: bool | None = None):
        """Restores a checkpoint; arguments and errors as of `predict`."""
        experiment, restored = restore_network(workdir, checkpoint=checkpoint)
        self.class_names, self.step = experiment.dataset.class_names, restored.step
        self.tta = with_tta(experiment.config, "test") if tta is None else tta
        self.errors: list[str] = []
        self._temperature = fitted_temperature(RunFolder(Path(workdir)), step=restored.step, tta=self.tta)
        self._mesh, self._variables = experiment.mesh, restored.state.variables
        self._largest_batch = min(experiment.config.evaluation.batch_size, LARGEST_BATCH)
        self._stored_size = restored.metadata["stored_size"]
        self._predict = compile_predict(experiment.mesh, forward=experiment.logits, tta=self.tta)

    def __call__(self, images: Images) -> Iterator[Prediction]:
        """Predictions of all images that can be read, in order; the others are logged, and listed in `errors`."""
        # Each batch is dispatched before the host waits for the logits of the previous one.
        for (names, logits), _ in itertools.pairwise(itertools.chain(self._dispatched(images), [None])):
            yield from self._predictions(names, jax.device_get(logits)[: len(names)])

    def _dispatched(self, images: Images) -> Iterator[tuple[list[Path | int], jax.Array]]:
        """The readable images of each batch, and their logits (padded to the batch size) on the devices."""
        # a power of two: each batch size is another compiled program
        at_most = min(self._largest_batch, 1 << (len(images) - 1).bit_length())
        batch_size = math.ceil(at_most / self._mesh.size) * self._mesh.size
        indices_B = replicate(np.arange(batch_size, dtype=np.int32), self._mesh)
        names = range(len(images)) if isinstance(images, np.ndarray) else images
        with ThreadPoolExecutor() as threads:
            for start in range(0, len(images), batch_size):
                rows = slice(start, start + batch_size)
                decoded = zip(names[rows], threads.map(self._read, images[rows]), strict=True)
                readable = {name: image_HWC for name, image_HWC in decoded if image_HWC is not None}
                if readable:
                    padding = [(0, batch_size - len(readable)), (0, 0), (0, 0), (0, 0)]
                    images_BHWC = np.pad(np.stack(list(readable.values())), padding)
                    batch = ImageSet(images_BHWC, np.zeros(batch_size, np.int32), self.class_names)  # without labels
                    logits = self._predict(self._variables, batches.place(batch, self._mesh), indices_B)
                    yield list(readable), logits["tta" if self.tta else "plain"]

    def _read(self, image: Path | np.ndarray) -> np.ndarray | None:
        if isinstance(image, np.ndarray):
            return decode.fit_to_square(image, self._stored_size)
        try:
            return decode.read_image(image, size=self._stored_size)
        except DataError as error:
            logging.warning("%s", error)
            self.errors.append(str(error))
            return None

    def _predictions(self, names: list[Path | int], logits_NK: np.ndarray) -> Iterator[Prediction]:
        probabilities_NK = softmax(logits_NK)
        calibrated_NK = softmax(logits_NK / self._temperature) if self._temperature else [None] * len(names)
        for name, probabilities_K, calibrated_K in zip(names, probabilities_NK, calibrated_NK, strict=True):
            best = int(probabilities_K.argmax())
            yield Prediction(
                image=name,
                class_name=self.class_names[best],
                probability=float(probabilities_K[best]),
                probabilities=self._by_class(probabilities_K),
                calibrated_probabilities=None if calibrated_K is None else self._by_class(calibrated_K),
            )

    def _by_class(self, values_K: np.ndarray) -> dict[str, float]:
        return dict(zip(self.class_names, values_K.tolist(), strict=True))


def predict_table(
    workdir: str | Path, files: Sequence[Path], *, checkpoint: str, tta: bool | None, output: str
) -> tuple[Table, int]:
    """Predicts image files for the command line: a table, and one line of JSON per image.

    Args:
        workdir, checkpoint, tta: see `predict`.
        files: at least one.
        output: a file of JSON lines, see `as_json`, which appears after the last prediction; '' = none.

    Returns:
        The table, and the number of files that could not be read.

    Raises:
        UsageError, DataError: see `predict`; or `output` cannot be written.
    """
    start_devices(workdir)
    with _json_lines(output) if output else contextlib.nullcontext() as write:
        predictor = Predictor(workdir, checkpoint=checkpoint, tta=tta)
        views = ", with test-time augmentation" if predictor.tta else ""
        file, label, second = (Column(heading, overflow="fold") for heading in ("file", "class", "second class"))
        probability = Column("probability", justify="right", no_wrap=True)
        title = f"{Path(workdir).absolute().name}, step {predictor.step}{views}"
        table = Table(file, label, probability, second, title=title)
        for prediction in predictor(files):
            table.add_row(*_row(prediction))
            if write:
                write(as_json(prediction))
    return table, len(predictor.errors)


def _row(prediction: Prediction) -> tuple[Text, ...]:
    second = sorted(prediction.probabilities, key=prediction.probabilities.get, reverse=True)[1]
    second = f"{second} {prediction.probabilities[second]:.2%}"
    texts = (str(prediction.image), prediction.class_name, f"{prediction.probability:.2%}", second)
    return tuple(map(Text, texts))  # brackets in a `Text` are not markup


def as_json(prediction: Prediction) -> dict:
    """A line of `--output`; probabilities have seven significant digits, the precision of float32."""

    def rounded(probabilities: dict[str, float] | None) -> dict[str, float] | None:
        return probabilities and {name: float(f"{value:.7g}") for name, value in probabilities.items()}

    probabilities = rounded(prediction.probabilities)
    return {
        "file": str(prediction.image),
        "class": prediction.class_name,
        "probability": probabilities[prediction.class_name],
        "probabilities": probabilities,
        "calibrated_probabilities": rounded(prediction.calibrated_probabilities),
    }


@contextlib.contextmanager
def _json_lines(path: str) -> Iterator[Callable[[dict], None]]:
    """Yields `write(value)`, which adds a line to a file; the file appears when the block ends without an error.

    Raises:
        UsageError: the file cannot be written; at the start of the block.
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
