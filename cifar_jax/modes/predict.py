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
    """Predicts the classes of images with the network of a run: one prediction per image, in order.

    Args:
        workdir: the run folder.
        images: files, folders and globs, or an array: uint8 (N, H, W, 3), RGB, any height and width.
        checkpoint: 'best', 'latest' or the number of a step.
        tta: test-time augmentation; None = as the run's configuration says.

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
        plain = self._by_class(logits_NK)
        calibrated = self._by_class(logits_NK / self._temperature) if self._temperature else [None] * len(names)
        for name, probabilities, calibrated_probabilities in zip(names, plain, calibrated, strict=True):
            best = max(probabilities, key=probabilities.get)
            yield Prediction(name, best, probabilities[best], probabilities, calibrated_probabilities)

    def _by_class(self, logits_NK: np.ndarray) -> list[dict[str, float]]:
        return [dict(zip(self.class_names, row, strict=True)) for row in softmax(logits_NK).tolist()]


def predict_table(
    workdir: str | Path, files: Sequence[Path], *, checkpoint: str, tta: bool | None, output: str
) -> tuple[Table, int]:
    """A table of predictions for the command line, and the number of files that could not be read.

    Also writes `output`, a file of JSON lines, see `as_json`; '' = none. The other arguments are those of `predict`.

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
    class_name = sorted(prediction.probabilities, key=prediction.probabilities.get, reverse=True)[1]
    second = f"{class_name} {prediction.probabilities[class_name]:.2%}"
    texts = (str(prediction.image), prediction.class_name, f"{prediction.probability:.2%}", second)
    return tuple(map(Text, texts))  # brackets in a `Text` are not markup


def as_json(prediction: Prediction) -> dict:
    """A line of `--output`; probabilities have seven significant digits, the precision of float32."""
    probabilities, calibrated = (
        values and {name: float(f"{value:.7g}") for name, value in values.items()}
        for values in (prediction.probabilities, prediction.calibrated_probabilities)
    )
    return {
        "file": str(prediction.image),
        "class": prediction.class_name,
        "probability": probabilities[prediction.class_name],
        "probabilities": probabilities,
        "calibrated_probabilities": calibrated,
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
