"""Follows the sidecar of an export: prepares images with NumPy and Pillow, imports nothing of the package.

The one oracle for all formats; also imported by the programs that run an export in its target library.
"""

import json

import numpy as np
from PIL import Image, ImageOps

METHODS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def read(path):
    """The content of FILE.json."""
    with open(f"{path}.json", encoding="utf-8") as file:
        return json.load(file)


def prepare(sidecar, image_paths):
    """The input of the network, in the dtype and layout that the sidecar states."""
    return np.stack([_prepare(sidecar, Image.open(path).convert("RGB")) for path in image_paths])


def _prepare(sidecar, image):
    stored, expected = sidecar["stored_image"], sidecar["input"]
    assert stored["crop"] == "center square" and stored["resize"]["target"] == "the shorter side"
    size = stored["size"]
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), method=METHODS[stored["resize"]["method"]])
    image_HWC = np.asarray(image)
    if expected["resize"]:
        side = expected["shape"][2]
        image_HWC = resized(image_HWC, side, METHODS[expected["resize"]["method"]])
    image_HWC = image_HWC[..., [stored["channel_order"].index(color) for color in expected["channel_order"]]]
    if expected["value_range"] == [0, 1]:
        image_HWC = image_HWC.astype(np.float64) / 255
    if sidecar["normalization"]:
        image_HWC = (image_HWC - np.array(sidecar["normalization"]["mean"])) / sidecar["normalization"]["std"]
    if expected["layout"] == "NCHW":
        image_HWC = image_HWC.transpose(2, 0, 1)
    assert list(image_HWC.shape) == expected["shape"][1:]
    return image_HWC.astype(expected["dtype"])


def resized(image_HWC, side, method):
    """Channel by channel in float32, since Pillow rounds and clips uint8 images."""
    channels = [Image.fromarray(channel_HW.astype(np.float32)) for channel_HW in np.moveaxis(image_HWC, -1, 0)]
    return np.stack([np.asarray(channel.resize((side, side), method)) for channel in channels], axis=-1)
