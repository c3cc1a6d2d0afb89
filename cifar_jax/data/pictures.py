"""One picture file -> one array."""

import io

import numpy as np
from PIL import Image, ImageOps

from cifar_jax.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")


def decode(data: bytes, *, where: str, size: int = 0) -> np.ndarray:
    """Decodes a picture of any common format, mode and orientation.

    Args:
        data: the bytes of the file.
        where: the name of the file, for the error.
        size: pixels; the shorter side is resized to it (bicubic) and the centre square kept. 0 = as stored.

    Returns:
        uint8 (H, W, 3), RGB, 0 to 255; EXIF rotation applied, transparency on white.

    Raises:
        DataError: the file cannot be decoded.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            rgb = _to_rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # Pillow's decoders raise whatever the damage makes them raise
        raise DataError(f"{where}: not a readable picture ({error}); replace or remove the file") from error
    if size and rgb.size != (size, size):
        rgb = ImageOps.fit(rgb, (size, size), method=Image.Resampling.BICUBIC)
    return np.asarray(rgb)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a pixel, which convert() would clip at 255
        return Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")
