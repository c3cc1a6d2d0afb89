"""Image files -> arrays."""

import glob
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from cifar_jax.errors import DataError, UsageError, one_line
from cifar_jax.files.untrusted import open_regular

# Not EPS, for which Pillow runs another program.
_FORMATS = ("JPEG", "MPO", "PNG", "BMP", "DIB", "GIF", "WEBP", "AVIF", "JPEG2000", "PPM", "TGA", "TIFF")
_SIXTEEN_BITS_IN_32 = ("PNG", "PPM")  # formats whose 16 bits older versions of Pillow keep in 32
_MOST_PIXELS = 50_000_000  # take 0.7 GB while an image is decoded; a large JPEG is decoded at a fraction of its size
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".avif", ".jp2"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".tif", ".tiff"),
)


def find_image_files(places: Sequence[str]) -> list[Path]:
    """The image files in `places`, each once: in the order of `places`, sorted within each.

    Args:
        places: files with any suffix; folders, searched recursively for visible files with one of `SUFFIXES`; and
            globs of both, such as 'images/**/*.png'.

    Raises:
        UsageError: a place without an image.
    """
    images: list[Path] = []
    for place in places:
        matches = [place] if place and Path(place).exists() else glob.glob(place, recursive=True)
        files = sorted({file for match in matches for file in _files(Path(match))})
        if not files:
            problem = "contains no images" if matches else "no such file or folder"
            raise UsageError(f"--images {place}: {problem}; check the path")
        images += files
    return list(dict.fromkeys(images))


def _files(path: Path) -> list[Path]:
    """The file itself, or the visible images below a folder."""
    if not path.is_dir():
        return [path]
    images = [file for file in path.rglob("*") if file.name.lower().endswith(SUFFIXES) and file.is_file()]
    return [file for file in images if not any(part.startswith(".") for part in file.relative_to(path).parts)]


def read_image(path: Path, *, size: int) -> np.ndarray:
    """`decode_image` of a file on disk; DataError if it cannot be read."""
    try:
        with open_regular(path) as file:
            data = file.read()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    return decode_image(data, where=str(path), size=size)


def decode_image(data: bytes, *, where: str, size: int = 0) -> np.ndarray:
    """Decodes an image of any common format, mode and orientation to RGB, uint8 (H, W, 3).

    The first frame of an animation is used. Transparent pixels are blended with white; Keras and torchvision drop the
    alpha channel, and show an arbitrary stored color. 16 bits per channel become 8. EXIF rotation is applied; color
    profiles are not, as in those libraries.

    Args:
        where: the name of the file, for the error.
        size: pixels; see `fit_to_square`; 0 = as stored.

    Raises:
        DataError: the file cannot be decoded, is larger than 50 megapixels, or does not show which value is white.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.format not in _FORMATS:
                raise DataError(f"{image.format}, which is not read; convert it to PNG")
            if size:
                # A JPEG is decoded at 1/2, 1/4 or 1/8 of its size if that leaves twice `size`: 2000 x 1500 pixels to 32
                # in 5 ms, not 28. Pixels change by under 1 of 255 on average, by 2 if 8 does not divide the sides.
                image.draft(None, (2 * size, 2 * size))
            if image.width * image.height > _MOST_PIXELS:
                raise DataError(
                    f"{image.width}x{image.height} pixels, at most {_MOST_PIXELS:,} are read; make it smaller"
                )
            is_deep = ";16" in str(image.tile[:1])  # before it is decoded
            ImageOps.exif_transpose(image, in_place=True)
            image_HWC = np.asarray(_to_rgb(image, is_deep=is_deep))
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    except Exception as error:  # Pillow's decoders raise anything on damaged files
        raise DataError(f"{where}: not a readable image ({one_line(error)}); replace or remove the file") from error
    return fit_to_square(image_HWC, size) if size else image_HWC


def fit_to_square(image_HWC: np.ndarray, size: int) -> np.ndarray:
    """uint8 (size, size, 3): shorter side resized to `size` pixels (bicubic, antialiased), center square kept."""
    if image_HWC.shape[:2] == (size, size):
        return image_HWC
    return np.asarray(ImageOps.fit(Image.fromarray(image_HWC), (size, size), method=Image.Resampling.BICUBIC))


def _to_rgb(image: Image.Image, *, is_deep: bool) -> Image.Image:
    """Raises DataError where the file does not show which value is white; `is_deep`: 16 bits per channel."""
    if image.mode == "F":  # convert() assumes 0 to 255, most files have 0 to 1
        raise DataError("floating-point pixels of unknown range; save it with 8 bits per channel")
    if image.mode == "I" and image.format not in _SIXTEEN_BITS_IN_32:
        raise DataError("32-bit integers of unknown range; save it with 8 bits per channel")
    if image.mode.startswith("I"):  # which convert() would clip at 255
        values_HW = np.asarray(image).clip(0, 65535)
        _require_full_range(values_HW.max())
        return Image.fromarray((values_HW // 257).astype(np.uint8)).convert("RGB")
    if is_deep:  # Pillow keeps the upper 8 of 16 bits
        extremes = zip(image.getbands(), np.reshape(image.getextrema(), (-1, 2)), strict=True)
        _require_full_range(256 * max(largest for band, (_, largest) in extremes if band != "A") + 255)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGB", rgba.size, "white")
        white.paste(rgba, mask=rgba.getchannel("A"))
        return white
    return image.convert("RGB")


def _require_full_range(largest: int) -> None:
    """Cameras and scanners store 8, 10 or 12 bits in 16: read as 16 bits, such an image would be black."""
    if 0 < largest < 4096:
        raise DataError(
            f"16 bits per channel, but no value above {largest} of 65535: black, unless fewer bits are used; "
            "save it with 8 bits per channel"
        )
