"""Refuses images on another scale than that of the pretrained weights, before any training.

The most common mistake in transfer learning: Caffe's ResNet-50 expects colors of 0..255 minus their mean and gets 0..1.
Nothing crashes, but the features are almost constant and the accuracy is a fraction of what it should be. The running
statistics of the first BatchNorm reveal it: they are those of its input on the images that the weights were trained on.
`docs/weights.md` has the distances of right and wrong preprocessings, from which the limits here follow.
"""

import logging
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from cifar_jax.devices import quickly_compiled
from cifar_jax.errors import DataError
from cifar_jax.experiment import Experiment
from cifar_jax.preprocessing.resize import resize
from cifar_jax.pretrained.families import CAFFE, IMAGENET, PLUS_MINUS_ONE

IMAGES = 64  # at 224 pixels, the output of a stem of 64 channels has 200 MB
LARGEST = 224  # pixels; larger images would only take more memory
FITS = 0.3  # nats; at most 0.25 was measured for the right preprocessing on photographs, gray and medical images
FITS_NOWHERE = 1.0  # at most 0.8 was measured for the right one on any images, at least 1.3 on photographs if none is
MUCH_CLOSER = 0.25  # of the distance as configured; a reading that is this much closer is the right one

# Of values in 0..1, in RGB.
COMMON = {
    "ImageNet's mean and std": (IMAGENET.mean, IMAGENET.std),
    "values of -1..1": (PLUS_MINUS_ONE.mean, PLUS_MINUS_ONE.std),
    "values of 0..1": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "values of 0..255": ((0.0, 0.0, 0.0), CAFFE.std),
    "values of 0..255 minus Caffe's mean": (CAFFE.mean, CAFFE.std),
}
_PHOTOGRAPHS = IMAGENET.mean, IMAGENET.std

log = logging.getLogger(__name__)

# (images, mean, std) -> distance
Distance = Callable[[np.ndarray, tuple[float, ...], tuple[float, ...]], float]


def require_right_scale(experiment: Experiment) -> None:
    """Compares the statistics of 64 training images at the first norm with its running ones.

    The distance is the Kullback-Leibler divergence between normal distributions, averaged over channels. Nothing is
    checked if `model.first_norm` is None.

    Raises:
        DataError: the images are practically black, or the weights fit much better with blue and red swapped or with
            another common preprocessing, or fit none at all.
    """
    images = experiment.splits["train"].images_NHWC
    images_NHWC = images[np.linspace(0, len(images) - 1, min(IMAGES, len(images))).astype(int)].astype(np.float32)
    distance = _distance_function(experiment)
    if distance is None:
        log.info("weights: without running statistics (GroupNorm), so the scale of the images cannot be checked")
        return
    _require_right_images(experiment, images_NHWC, distance)
    _require_right_preprocessing(experiment, images_NHWC, distance)


def _require_right_images(experiment: Experiment, images_NHWC: np.ndarray, distance: Distance) -> None:
    scale = experiment.preprocessing.mean, experiment.preprocessing.std
    given = distance(images_NHWC, *scale)
    if given <= FITS:
        return
    corrected = distance(images_NHWC[..., ::-1], *scale)
    if images_NHWC.max() <= 1:
        mistake = "values of 0..1 where 0..255 are meant, or scaled twice: no pixel is above 1"
    elif corrected <= min(FITS, MUCH_CLOSER * given):
        mistake = (
            f"blue and red are swapped (BGR for RGB; corrected, the distance is {corrected:.2f}); if it is the weights "
            "that take BGR, set --config.model.input_channels=BGR"
        )
    else:
        return
    raise DataError(
        f"{experiment.dataset.source}: on the wrong scale for the weights {experiment.backbone.source} (distance to "
        f"their running statistics {given:.2f}): {mistake}; fix the images, or set --config.model.check_input=False"
    )


def _require_right_preprocessing(experiment: Experiment, images_NHWC: np.ndarray, distance: Distance) -> None:
    backbone = experiment.backbone
    used, own = ((scale.mean, scale.std) for scale in (experiment.preprocessing, backbone.preprocessing))
    if backbone.states_preprocessing and used == own:
        return
    like_photographs_NHWC = _like_photographs(images_NHWC)

    def nearest(scale) -> float:
        """To either the images or the images as photographs: dark, pale or tinted images are no mistake."""
        return min(distance(images_NHWC, *scale), distance(like_photographs_NHWC, *scale))

    given = nearest(used)
    if given <= FITS:
        return
    candidates = COMMON | ({"the weights' own mean and std": own} if own != used else {})
    distances = {(name, scale): nearest(scale) for name, scale in candidates.items()}
    (name, (mean, std)), best = min(distances.items(), key=lambda item: item[1])
    found = (
        f"{experiment.dataset.source}: on the wrong scale for the weights {backbone.source}: the distance to their "
        f"running statistics is {given:.2f} with input_mean and input_std {_numbers(used[0])}, {_numbers(used[1])}"
    )
    keys = f"'--config.model.input_mean={_numbers(mean)}' '--config.model.input_std={_numbers(std)}'"
    ignore = "--config.model.check_input=False trains all the same"
    if best <= MUCH_CLOSER * given:
        raise DataError(f"{found}, and {best:.2f} with {name}: set {keys}; {ignore}")
    if given > FITS_NOWHERE:
        raise DataError(
            f"{found}; no common preprocessing fits, the nearest is {name} with {best:.2f}: set model.input_mean "
            f"and input_std to those that the weights were trained with; {ignore}"
        )
    log.warning(
        "weights %s: the distance to their running statistics is %.2f, usual is at most %.1f: check the preprocessing",
        backbone.source,
        given,
        FITS,
    )


def _distance_function(experiment: Experiment) -> Distance | None:
    """The lower of the distances at the size of this run and at that of the weights; None without running statistics.

    To weights for 224 pixels, images of 32 pixels look rough: with the right preprocessing, their distance is 5.7.
    """
    variables = {"params": experiment.backbone.params, "batch_stats": experiment.backbone.batch_stats}
    used, published = experiment.preprocessing, experiment.backbone.preprocessing
    sizes = {used.image_size, min(published.image_size, LARGEST)}

    # One program for all readings: without `jit`, each small operation of a resize would be compiled.
    @quickly_compiled
    def program(variables, images_NHWC, mean_C, std_C):
        divergences = []
        for size in sizes:
            resized_NHWC = images_NHWC
            if images_NHWC.shape[1:3] != (size, size):
                resized_NHWC = resize(images_NHWC, size=size, method=used.resize_method)
            first_norm = experiment.model.first_norm(variables, (resized_NHWC / 255 - mean_C) / std_C)
            divergences.append(_divergence(*first_norm))
        return jnp.stack(divergences).min()

    def distance(images_NHWC, mean, std) -> float:
        return float(program(variables, np.ascontiguousarray(images_NHWC), np.float32(mean), np.float32(std)))

    image_NHWC = jax.ShapeDtypeStruct((1, used.image_size, used.image_size, 3), jnp.float32)
    return distance if jax.eval_shape(experiment.model.first_norm, variables, image_NHWC) else None


def _like_photographs(images_NHWC: np.ndarray) -> np.ndarray:
    """The images with the mean and contrast of ImageNet's, per channel."""
    mean_C, std_C = (np.float32(values) * 255 for values in _PHOTOGRAPHS)
    contrast_C = np.maximum(images_NHWC.std(axis=(0, 1, 2)), 1)  # images of one flat color
    return (images_NHWC - images_NHWC.mean(axis=(0, 1, 2))) / contrast_C * std_C + mean_C


def _divergence(x_NHWC: jax.Array, running: dict) -> jax.Array:
    """Nats, of a norm's input from its running statistics."""
    mean_C, variance_C = x_NHWC.mean(axis=(0, 1, 2)), x_NHWC.var(axis=(0, 1, 2))
    # The floor keeps dead channels, whose variance is near 0, from deciding.
    floor = 1e-3 * running["var"].mean()
    ratio_C = (variance_C + floor) / (running["var"] + floor)
    moved_C = (mean_C - running["mean"]) ** 2 / (running["var"] + floor)
    return ((ratio_C - 1 - jnp.log(ratio_C) + moved_C) / 2).mean()


def _numbers(values: tuple[float, ...]) -> str:
    """As the command line takes them: (0.485,0.456,0.406)."""
    return f"({','.join(f'{value:.5g}' for value in values)})"
