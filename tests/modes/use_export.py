"""Run as a program: the logits of an exported network, from FILE and its sidecar alone.

    python use_export.py HOW FILE LOGITS.npy IMAGE ...

HOW is `use` for the code in the sidecar, or names one of the functions below. Nothing of the package is imported, so
that the package cannot hide its own mistakes.
"""

import os
import sys

import numpy as np
import sidecar as sidecars
from safetensors.numpy import load_file

os.environ["KERAS_BACKEND"] = "jax"


def use(file, sidecar, images):
    """The code in the sidecar, in the folder of the file."""
    names = {"images": images}
    exec("\n".join(sidecar["use"]), names)
    return names["logits"]


def small_keras(file, sidecar, images):
    """The code of keras.applications.ResNet50 with the stage sizes of the sidecar."""
    from keras.src.applications import resnet

    def stages(x):
        for stage, blocks in enumerate(sidecar["model"]["stage_sizes"], start=2):
            stride = 1 if stage == 2 else 2
            x = resnet.stack_residual_blocks_v1(x, 64 * 2 ** (stage - 2), blocks, stride, name=f"conv{stage}")
        return x

    model = resnet.ResNet(
        stages,
        preact=False,
        use_bias=True,
        weights=None,
        input_shape=tuple(sidecar["input"]["shape"][1:]),
        classes=len(sidecar["classes"]),
        classifier_activation=None,
    )
    model.load_weights(file)
    return model(images, training=False)


def plain_torch(file, sidecar, images):
    """A ResNet in plain PyTorch with torchvision's names."""
    sys.path.append(os.path.join(os.path.dirname(__file__), "../pretrained"))
    import safetensors.torch
    import torch
    import torch_oracle

    settings, classes = sidecar["model"], len(sidecar["classes"])
    model = torch_oracle.ResNet(settings["stage_sizes"], width=settings["width"], classes=classes)
    model.load_state_dict(safetensors.torch.load_file(file))
    return model.eval()(torch.from_numpy(images)).detach()


def timm(file, sidecar, images):
    import safetensors.torch
    import torch
    from timm.models.resnet import Bottleneck, ResNet

    model = ResNet(Bottleneck, sidecar["model"]["stage_sizes"], num_classes=len(sidecar["classes"]))
    model.load_state_dict(safetensors.torch.load_file(file))
    return model.eval()(torch.from_numpy(images)).detach()


def numpy_cnn(file, sidecar, images):
    """The CNN in float64 NumPy, with the GELU in its tanh form."""
    settings, tensors = sidecar["model"], {name: a.astype(np.float64) for name, a in load_file(file).items()}

    def conv(x_NHWC, layer):
        kernel_HWIO = tensors[f"params/{layer}/kernel"]
        side = len(kernel_HWIO)
        padding = ((side - 1) // 2, side // 2)
        x_NHWC = np.pad(x_NHWC, ((0, 0), padding, padding, (0, 0)))
        windows_NHWCIJ = np.lib.stride_tricks.sliding_window_view(x_NHWC, (side, side), axis=(1, 2))
        return np.einsum("nhwcij,ijco->nhwo", windows_NHWCIJ, kernel_HWIO)

    def gelu(x):
        return x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2

    x_NHWC = images.astype(np.float64)
    if settings["whitening"]:
        x_NHWC = gelu(conv(x_NHWC, "whiten") + tensors["params/whiten_bias/bias"])
    for block in range(1, len(settings["widths"]) + 1):
        for layer in range(1, settings["convs_per_block"] + 1):
            x_NHWC = conv(x_NHWC, f"block{block}_conv{layer}")
            if layer == 1:
                n, height, width, channels = x_NHWC.shape
                x_NHWC = x_NHWC[:, : height // 2 * 2, : width // 2 * 2]
                x_NHWC = x_NHWC.reshape(n, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))
            norm = f"block{block}_norm{layer}"
            mean, var = (tensors[f"batch_stats/{norm}/{name}"] for name in ("mean", "var"))
            x_NHWC = gelu((x_NHWC - mean) / np.sqrt(var + 1e-5) + tensors[f"params/{norm}/bias"])
    return x_NHWC.max(axis=(1, 2)) @ tensors["params/head/kernel"] / 9


if __name__ == "__main__":
    how, file, logits_file, *image_files = sys.argv[1:]
    sidecar = sidecars.read(file)
    images = sidecars.prepare(sidecar, image_files)
    os.chdir(os.path.dirname(os.path.abspath(file)))
    np.save(logits_file, np.asarray(globals()[how](file, sidecar, images)))
    assert not {"cifar_jax", "flax"} & set(sys.modules)
