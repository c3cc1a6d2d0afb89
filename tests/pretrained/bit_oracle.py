"""BiT's ResNet-v2 (Kolesnikov et al. 2020) in float64 numpy, on the tensors of the published .npz files."""

import numpy as np


def standardized(kernel_HWIO):
    kernel_HWIO = kernel_HWIO.astype(np.float64)
    centered = kernel_HWIO - kernel_HWIO.mean((0, 1, 2))
    return centered / np.sqrt(kernel_HWIO.var((0, 1, 2)) + 1e-10)


def convolve(x_NHWC, kernel_HWIO, *, stride=1, padding=0):
    kernel_HWIO = standardized(kernel_HWIO)
    x_NHWC = np.pad(x_NHWC, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    side = len(kernel_HWIO)
    height, width = ((n - side) // stride + 1 for n in x_NHWC.shape[1:3])
    out = 0
    for i in range(side):
        for j in range(side):
            shifted = x_NHWC[:, i : i + stride * height : stride, j : j + stride * width : stride]
            out = out + shifted[:, :height, :width] @ kernel_HWIO[i, j]
    return out


def max_pool(x_NHWC):
    """3x3 of stride 2, padded with zeros, which matters because the input may be negative."""
    x_NHWC = np.pad(x_NHWC, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x_NHWC, (3, 3), axis=(1, 2))
    return windows[:, ::2, ::2].max((-1, -2))


def norm_relu(x_NHWC, gamma, beta):
    n, height, width, channels = x_NHWC.shape
    groups = x_NHWC.reshape(n, height, width, 32, channels // 32)
    mean, var = (f(groups, axis=(1, 2, 4), keepdims=True) for f in (np.mean, np.var))
    x_NHWC = ((groups - mean) / np.sqrt(var + 1e-5)).reshape(x_NHWC.shape)
    return np.maximum(x_NHWC * gamma + beta, 0)


def run(tensors, images_NHWC, stage_sizes):
    """{'stem', 'stage1', ..., 'features', 'logits'}."""

    def kernel(name):
        return tensors[f"resnet/{name}/standardized_conv2d/kernel"]

    def norm(name, x_NHWC):
        return norm_relu(x_NHWC, *(tensors[f"resnet/{name}group_norm/{leaf}"] for leaf in ("gamma", "beta")))

    x_NHWC = max_pool(convolve(images_NHWC.astype(np.float64), kernel("root_block"), stride=2, padding=3))
    outputs = {"stem": x_NHWC}
    for stage, units in enumerate(stage_sizes, start=1):
        for unit in range(1, units + 1):
            place = f"block{stage}/unit{unit:02}"
            stride = 2 if stage > 1 and unit == 1 else 1
            y_NHWC = norm(f"{place}/a/", x_NHWC)
            if unit == 1:
                x_NHWC = convolve(y_NHWC, kernel(f"{place}/a/proj"), stride=stride)
            y_NHWC = convolve(y_NHWC, kernel(f"{place}/a"))
            y_NHWC = convolve(norm(f"{place}/b/", y_NHWC), kernel(f"{place}/b"), stride=stride, padding=1)
            x_NHWC = x_NHWC + convolve(norm(f"{place}/c/", y_NHWC), kernel(f"{place}/c"))
        outputs[f"stage{stage}"] = x_NHWC
    features_NC = norm("", x_NHWC).mean((1, 2))
    head = {leaf: tensors[f"resnet/head/conv2d/{leaf}"] for leaf in ("kernel", "bias")}
    return outputs | {"features": features_NC, "logits": features_NC @ head["kernel"][0, 0] + head["bias"]}
