"""The augmentation figure shows the images that a training step feeds to the network."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cifar_jax import experiment as experiments
from cifar_jax.config import default_config
from cifar_jax.devices import REPLICATED, make_mesh, split_over_devices
from cifar_jax.training import results
from cifar_jax.training.state import Metrics, TrainState
from cifar_jax.training.step import train_on_batch

pytestmark = pytest.mark.slow


class Recorder:
    """A model that stores its input images in `batch_stats`."""

    num_classes = 10

    def init(self, rng, images_NHWC, *, train):
        return {"params": {"scale": jnp.ones(())}}

    def apply(self, variables, images_NHWC, *, train, mutable, rngs):
        logits_NK = jnp.zeros((len(images_NHWC), 10)) * variables["params"]["scale"]
        return logits_NK, {"batch_stats": {"seen": images_NHWC}}


@pytest.mark.parametrize("changes", [{}, {"cutout": 8, "flip": "random"}, {"mixup": 1.0, "crop_padding": 4}])
@pytest.mark.parametrize("image_size", [0, 40])
def test_the_shown_images_equal_those_of_the_training_step(changes, image_size):
    config = default_config()
    config.data.update(name="shapes", limit=400)
    config.train.batch_size = 40
    config.augment.update(changes)
    config.model.update(image_size=image_size, freeze_statistics=False)
    experiment = experiments.build(config, allow_fallback=False)
    before_NHWC, after_ENHWC = results.seen_in_training(experiment, size=8, epochs=2)
    train = experiment.splits["train"]
    rows_B = np.array([int(np.flatnonzero((train.images_NHWC == image).all((1, 2, 3)))[0]) for image in before_NHWC])
    optimizer, model = optax.sgd(0.0), Recorder()
    params = model.init(jax.random.key(0), before_NHWC, train=False)["params"]

    def seen(images_BHWC, labels_B, step):
        state = TrainState(step, params, {}, optimizer.init(params), {}, Metrics.zero())
        settings = {"experiment": dataclasses.replace(experiment, model=model), "optimizer": optimizer}
        settings |= {"image_size": experiment.preprocessing.image_size, "seed": config.train.seed}
        after = train_on_batch(state, images_BHWC, labels_B, jnp.asarray(rows_B, jnp.int32), **settings)
        return after.batch_stats["seen"]

    step = jax.jit(split_over_devices(seen, make_mesh(1), in_specs=REPLICATED, out_specs=REPLICATED))
    for epoch, shown_NHWC in enumerate(after_ENHWC):
        images_BHWC = step(before_NHWC, train.labels_N[rows_B], jnp.int32(epoch * experiment.steps_per_epoch))
        pixels_BHWC = 255 * (np.asarray(images_BHWC) * experiment.preprocessing.std + experiment.preprocessing.mean)
        assert np.abs(shown_NHWC - np.clip(pixels_BHWC, 0, 255)).max() <= 0.51
    assert np.abs(after_ENHWC[0].astype(int) - after_ENHWC[1]).max() > 20
