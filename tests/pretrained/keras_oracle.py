"""Run as a program: saves Keras's ResNets with random weights, and their outputs, in a folder.

A separate process, because Keras reads its backend from the environment and emits warnings.
"""

import os
import sys
from pathlib import Path
from unittest import mock

os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras
import numpy as np
from keras.src.applications import resnet

SMALL = (2, 2, 2, 2)
WIDTHS = (64, 128, 256, 512)


def small(preactivation):
    """As Keras builds it, with fewer blocks."""
    stack = resnet.stack_residual_blocks_v2 if preactivation else resnet.stack_residual_blocks_v1
    without_stride = "conv5" if preactivation else "conv2"

    def stages(x):
        for number, (width, blocks) in enumerate(zip(WIDTHS, SMALL, strict=True), start=2):
            name = f"conv{number}"
            x = stack(x, width, blocks, stride1=1 if name == without_stride else 2, name=name)
        return x

    base = resnet.ResNet(stages, preactivation, use_bias=True, include_top=False, weights=None, pooling="avg")
    return with_head(base, classes=10)


def full(preactivation):
    make = keras.applications.ResNet50V2 if preactivation else keras.applications.ResNet50
    return with_head(make(include_top=False, weights=None, pooling="avg"), classes=1000)


def with_head(base, *, classes):
    """As Keras adds it, but for any image size and without softmax."""
    return keras.Model(base.input, keras.layers.Dense(classes, name="predictions")(base.output))


def randomize(model):
    random = np.random.default_rng(0)
    for variable in model.weights:
        scale = np.sqrt(2 / np.prod(variable.shape[:-1])) if len(variable.shape) > 1 else 0.2
        value = random.normal(scale=scale, size=variable.shape)
        positive = variable.name in ("gamma", "moving_variance")
        variable.assign(((value + 1).clip(0.3) if positive else value).astype(np.float32))


def stage_outputs(model):
    """The outputs of the stages, the features and the logits, by our names."""
    outputs = {"stem": model.get_layer("pool1_pool").output}
    for layer in model.layers:
        if layer.name.endswith("_out"):
            outputs[f"stage{int(layer.name[4]) - 1}"] = layer.output
    return outputs | {"features": model.layers[-1].input, "logits": model.output}


def run(model, images_NHWC):
    named = stage_outputs(model)
    with jax.default_matmul_precision("highest"):
        outputs = keras.Model(model.input, list(named.values())).predict_on_batch(images_NHWC)
    return dict(zip(named, outputs, strict=True))


def training_step(model, images_NHWC, labels_N):
    """Loss, gradients and updated statistics of one batch, as 'layer/leaf'."""
    trainable = [variable.value for variable in model.trainable_variables]
    others = [variable.value for variable in model.non_trainable_variables]

    def loss_of(trainable):
        logits_NK, others_after = model.stateless_call(trainable, others, images_NHWC, training=True)
        return -jax.nn.log_softmax(logits_NK)[np.arange(len(labels_N)), labels_N].mean(), others_after

    with jax.default_matmul_precision("highest"):
        (loss, others_after), gradients = jax.jit(jax.value_and_grad(loss_of, has_aux=True))(trainable)
    named = {"loss": loss}
    for variable, value in zip(model.trainable_variables, gradients, strict=True):
        named[f"gradient/{variable.path}"] = value
    for variable, value in zip(model.non_trainable_variables, others_after, strict=True):
        named[f"statistic/{variable.path}"] = value
    return named


def save(name, model, folder, *, image_sizes, bgr):
    """NAME.weights.h5, NAME.keras and NAME.h5, and NAME_SIZE.npz for each image size."""
    randomize(model)
    model.save_weights(folder / f"{name}.weights.h5")
    model.save(folder / f"{name}.keras")
    model.save(folder / f"{name}.h5")
    for size in image_sizes:
        images_NHWC = np.random.default_rng(1).normal(size=(1, size, size, 3)).astype(np.float32)
        outputs = run(model, images_NHWC[..., ::-1] if bgr else images_NHWC)
        np.savez(folder / f"{name}_{size}.npz", images=images_NHWC, **outputs)


def write_all(folder):
    for version, preactivation in (("v1", False), ("v2", True)):
        save(version, full(preactivation), folder, image_sizes=(97, 224), bgr=not preactivation)
        save(f"small_{version}", small(preactivation), folder, image_sizes=(64,), bgr=not preactivation)


def write_step(folder):
    """step.npz, from the weights of small_v1, in float64.

    In float32, rounding switches ReLUs close to zero, which changes the third digit of the gradients.
    """
    jax.config.update("jax_enable_x64", True)
    keras.config.set_floatx("float64")
    model = small(preactivation=False)
    randomize(model)
    images_NHWC = np.random.default_rng(2).normal(size=(4, 64, 64, 3)).astype(np.float32)
    labels_N = np.array([3, 1, 4, 1])
    # Keras's BatchNorm would compute in float32, the result type that Keras gives float64 and float32.
    with mock.patch.object(keras.src.backend, "result_type", lambda *dtypes: "float64"):
        step = training_step(model, images_NHWC[..., ::-1], labels_N)
    np.savez(folder / "step.npz", images=images_NHWC, labels=labels_N, **step)


def read_back(folder):
    """The outputs of Keras with the weights in ours.h5, which `write` wrote."""
    model = small(preactivation=False)
    model.load_weights(folder / "ours.h5")
    images_NHWC = np.load(folder / "small_v1_64.npz")["images"]
    np.savez(folder / "read_back.npz", **run(model, images_NHWC[..., ::-1]))


if __name__ == "__main__":
    action, folder = sys.argv[1:]
    {"write_all": write_all, "write_step": write_step, "read_back": read_back}[action](Path(folder))
