import io

import numpy as np
import pytest
from PIL import Image

from cifar_jax.data.pictures import decode
from cifar_jax.errors import DataError


def _encoded(image, **options):
    file = io.BytesIO()
    image.save(file, **({"format": "PNG"} | options))
    return file.getvalue()


def _colour(image, **options):
    """The one colour of the decoded picture."""
    decoded_HWC = decode(_encoded(image, **options), where="x")
    assert decoded_HWC.dtype == np.uint8 and decoded_HWC.ndim == 3
    assert np.ptp(decoded_HWC, axis=(0, 1)).max() == 0
    return tuple(decoded_HWC[0, 0].tolist())


def test_rgb_png_comes_back_unchanged():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    np.testing.assert_array_equal(decode(_encoded(Image.fromarray(pixels)), where="x"), pixels)


def test_every_mode_becomes_rgb():
    grey16 = Image.fromarray(np.full((2, 3), 200 * 257 + 100, np.uint16))
    palette = Image.new("RGB", (3, 2), (10, 200, 30)).convert("P", palette=Image.Palette.ADAPTIVE)
    assert _colour(Image.new("L", (3, 2), 77)) == (77, 77, 77)
    assert _colour(Image.new("1", (3, 2), 1)) == (255, 255, 255)
    assert _colour(grey16) == (200, 200, 200)
    assert _colour(palette) == (10, 200, 30)
    assert _colour(Image.new("CMYK", (3, 2), (0, 255, 255, 0)), format="TIFF") == (255, 0, 0)


def test_transparency_lies_on_white():
    assert _colour(Image.new("RGBA", (3, 2), (255, 0, 0, 0))) == (255, 255, 255)
    assert _colour(Image.new("RGBA", (3, 2), (255, 0, 0, 51))) == (255, 204, 204)
    assert _colour(Image.new("LA", (3, 2), (0, 0))) == (255, 255, 255)
    palette = Image.new("P", (3, 2), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert _colour(palette, transparency=1) == (255, 255, 255)
    assert _colour(palette, transparency=0) == (10, 20, 30)


def test_exif_rotation_is_applied():
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[0, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    decoded_HWC = decode(_encoded(Image.fromarray(pixels), exif=exif), where="x")
    np.testing.assert_array_equal(decoded_HWC, np.rot90(pixels, -1))


def test_resizing_keeps_the_centre_square():
    wide = Image.fromarray(np.random.default_rng(1).integers(0, 256, (20, 60, 3), np.uint8))
    for image, cut in ((wide, np.s_[:, 10:20]), (wide.transpose(Image.Transpose.ROTATE_90), np.s_[10:20])):
        small = image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(decode(_encoded(image), where="x", size=10), np.asarray(small)[cut])
    square = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
    expected = Image.fromarray(square).resize((4, 4), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(decode(_encoded(Image.fromarray(square)), where="x", size=4), expected)
    np.testing.assert_array_equal(decode(_encoded(Image.fromarray(square)), where="x", size=9), square)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "GIF", "TIFF", "WEBP"])
def test_truncated_pictures_are_errors_that_name_the_file(file_format):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))
    whole = _encoded(noise, format=file_format)
    for cut in (0, 1, 10, len(whole) // 3, len(whole) // 2):
        with pytest.raises(DataError, match=r"cat/001: not a readable picture"):
            decode(whole[:cut], where="cat/001")
    with pytest.raises(DataError):
        decode(b"<html>no picture</html>", where="x")
