import io
import os
import struct
import subprocess
import zlib

import numpy as np
import pytest
from PIL import Image

from cifar_jax.data.decode import decode_image, find_image_files, read_image
from cifar_jax.errors import DataError, UsageError


def _encoded(image, **options):
    file = io.BytesIO()
    image.save(file, **({"format": "PNG"} | options))
    return file.getvalue()


def _color(image, **options):
    """The one color of the decoded image."""
    decoded_HWC = decode_image(_encoded(image, **options), where="x")
    assert decoded_HWC.dtype == np.uint8 and decoded_HWC.ndim == 3
    assert np.ptp(decoded_HWC, axis=(0, 1)).max() == 0
    return tuple(decoded_HWC[0, 0].tolist())


def test_rgb_png_comes_back_unchanged():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    np.testing.assert_array_equal(decode_image(_encoded(Image.fromarray(pixels)), where="x"), pixels)


def test_every_mode_becomes_rgb():
    gray16 = Image.fromarray(np.full((2, 3), 200 * 257 + 100, np.uint16))
    palette = Image.new("RGB", (3, 2), (10, 200, 30)).convert("P", palette=Image.Palette.ADAPTIVE)
    assert _color(Image.new("L", (3, 2), 77)) == (77, 77, 77)
    assert _color(Image.new("1", (3, 2), 1)) == (255, 255, 255)
    assert _color(gray16) == (200, 200, 200)
    assert _color(palette) == (10, 200, 30)
    assert _color(Image.new("CMYK", (3, 2), (0, 255, 255, 0)), format="TIFF") == (255, 0, 0)


def test_transparency_is_blended_with_white():
    assert _color(Image.new("RGBA", (3, 2), (255, 0, 0, 0))) == (255, 255, 255)
    assert _color(Image.new("RGBA", (3, 2), (255, 0, 0, 51))) == (255, 204, 204)
    assert _color(Image.new("LA", (3, 2), (0, 0))) == (255, 255, 255)
    palette = Image.new("P", (3, 2), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert _color(palette, transparency=1) == (255, 255, 255)
    assert _color(palette, transparency=0) == (10, 20, 30)


def test_exif_rotation_is_applied():
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[0, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    decoded_HWC = decode_image(_encoded(Image.fromarray(pixels), exif=exif), where="x")
    np.testing.assert_array_equal(decoded_HWC, np.rot90(pixels, -1))


def test_resizing_keeps_the_center_square():
    wide = Image.fromarray(np.random.default_rng(1).integers(0, 256, (20, 60, 3), np.uint8))
    for image, cut in ((wide, np.s_[:, 10:20]), (wide.transpose(Image.Transpose.ROTATE_90), np.s_[10:20])):
        small = image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(decode_image(_encoded(image), where="x", size=10), np.asarray(small)[cut])
    square = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
    expected = Image.fromarray(square).resize((4, 4), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(decode_image(_encoded(Image.fromarray(square)), where="x", size=4), expected)
    np.testing.assert_array_equal(decode_image(_encoded(Image.fromarray(square)), where="x", size=9), square)


def test_of_an_animation_the_first_frame_counts():
    frames = [Image.new("RGB", (3, 2), color) for color in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    for file_format in ("GIF", "PNG", "TIFF"):
        assert _color(frames[0], format=file_format, save_all=True, append_images=frames[1:]) == (255, 0, 0)


def test_a_cmyk_jpeg_is_no_negative():
    decoded_HWC = decode_image(
        _encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), format="JPEG", quality=95), where="x"
    )
    assert np.abs(decoded_HWC.astype(int) - (255, 0, 0)).max() < 5


def test_sixteen_bits_lose_only_the_lower_eight():
    ramp = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    for file_format in ("PNG", "TIFF"):
        decoded_HWC = decode_image(_encoded(Image.fromarray(ramp), format=file_format), where="x")
        np.testing.assert_array_equal(decoded_HWC, np.repeat(np.arange(256).reshape(16, 16, 1), 3, axis=2))


def _png_of_16_bits(values_HWC, color_type):
    """Pillow writes 16 bits only for gray."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, _ = values_HWC.shape
    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values_HWC)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


DEEP = {
    "gray PNG": lambda gray: _png_of_16_bits(gray[..., None], 0),
    "gray and alpha PNG": lambda gray: _png_of_16_bits(np.stack([gray, np.full_like(gray, 65535)], -1), 4),
    "RGB PNG": lambda gray: _png_of_16_bits(np.stack([gray] * 3, -1), 2),
    "RGBA PNG": lambda gray: _png_of_16_bits(np.stack([gray] * 3 + [np.full_like(gray, 65535)], -1), 6),
    "TIFF": lambda gray: _encoded(Image.fromarray(gray), format="TIFF"),
    "compressed TIFF": lambda gray: _encoded(Image.fromarray(gray), format="TIFF", compression="tiff_lzw"),
    "PGM": lambda gray: b"P5 %d %d 65535 " % gray.shape[::-1] + gray.astype(">u2").tobytes(),
}


@pytest.mark.parametrize("kind", DEEP)
def test_sixteen_bits_keep_the_upper_eight_or_are_refused_but_never_black(kind):
    random = np.random.default_rng(0)
    full = random.integers(0, 65536, (5, 7), np.uint16)
    full[0, 0] = 65535
    decoded_HWC = decode_image(DEEP[kind](full), where="x")
    assert np.abs(decoded_HWC.astype(int) - (full / 257).round()[..., None]).max() <= 1
    for bits in (8, 12):
        values = random.integers(1, 1 << bits, (5, 7), np.uint16)
        with pytest.raises(DataError, match=r"x: 16 bits per channel, but no value above [0-9]+ of 65535: .*8 bits"):
            decode_image(DEEP[kind](values), where="x")


def test_a_black_image_of_sixteen_bits_is_black():
    assert decode_image(DEEP["gray PNG"](np.zeros((2, 3), np.uint16)), where="x").max() == 0


@pytest.mark.parametrize("values", [np.full((2, 3), 0.5, np.float32), np.full((2, 3), 200, np.int32)])
def test_pixels_of_unknown_range_are_refused_not_black(values):
    with pytest.raises(DataError, match=r"x: .*unknown range; save it with 8 bits per channel"):
        decode_image(_encoded(Image.fromarray(values), format="TIFF"), where="x")


def test_the_orientation_of_a_tiff_is_applied_once():
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    encoded = _encoded(Image.fromarray(pixels), format="TIFF", tiffinfo={0x0112: 6})
    np.testing.assert_array_equal(decode_image(encoded, where="x"), np.rot90(pixels, -1))


def test_blending_with_white_follows_the_formula():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 4), np.uint8)
    alpha = pixels[..., 3:] / 255
    expected = pixels[..., :3] * alpha + 255 * (1 - alpha)
    assert np.abs(decode_image(_encoded(Image.fromarray(pixels)), where="x") - expected).max() <= 0.5


def test_formats_for_which_pillow_runs_a_program_are_refused(monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a program was started"))
    encoded = _encoded(Image.new("RGB", (3, 2)), format="EPS")
    with pytest.raises(DataError, match="x: EPS, which is not read; convert it to PNG"):
        decode_image(encoded, where="x")


def test_images_that_take_too_much_memory_are_refused_before_they_are_decoded():
    rows = np.zeros((1, 1, 3), np.uint8)
    large = bytearray(_encoded(Image.fromarray(rows)))
    header = struct.pack(">IIBBBBB", 8000, 8000, 8, 2, 0, 0, 0)
    large[16:29], large[29:33] = header, struct.pack(">I", zlib.crc32(b"IHDR" + header))
    with pytest.raises(DataError, match="x: 8000x8000 pixels, at most 50,000,000 are read; make it smaller"):
        decode_image(bytes(large), where="x", size=32)


def test_a_device_or_fifo_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    for name in ("fifo.png", "zero.png"):
        with pytest.raises(DataError, match=rf"{name}: a device or FIFO"):
            read_image(tmp_path / name, size=5)


@pytest.mark.parametrize("size", [32, 100])
def test_a_large_jpeg_becomes_what_it_becomes_when_decoded_at_full_size(size):
    spots = Image.fromarray(np.random.default_rng(0).integers(0, 256, (75, 100, 3), np.uint8))
    encoded = _encoded(spots.resize((1600, 1200), Image.Resampling.BICUBIC), format="JPEG", quality=95, subsampling=0)
    full = Image.open(io.BytesIO(encoded)).crop((200, 0, 1400, 1200)).resize((size, size), Image.Resampling.BICUBIC)
    difference = np.abs(decode_image(encoded, where="x", size=size).astype(int) - np.asarray(full))
    assert difference.mean() < 1 and difference.max() < 16


@pytest.fixture
def folder(tmp_path):
    for name in (
        "b.png",
        "a.JPG",
        "deep/er/c.gif",
        "deep/no_image.txt",
        ".hidden/d.png",
        "deep/.e.png",
        "odd[1].png",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(_encoded(Image.new("RGB", (2, 2))))
    return tmp_path


def _found(folder, *places):
    return [str(path.relative_to(folder)) for path in find_image_files([str(folder / place) for place in places])]


def test_folders_are_searched_to_the_bottom_for_visible_images(folder):
    assert _found(folder, "") == ["a.JPG", "b.png", "deep/er/c.gif", "odd[1].png"]


def test_files_and_globs_are_taken_in_order_and_once(folder):
    assert _found(folder, "deep/no_image.txt", "b.png", "*.png", "b.png") == [
        "deep/no_image.txt",
        "b.png",
        "odd[1].png",
    ]
    assert _found(folder, "odd[1].png") == ["odd[1].png"]  # a name before it is a pattern
    assert _found(folder, "**/*.gif") == _found(folder, "d*") == ["deep/er/c.gif"]


@pytest.mark.parametrize("place", ["missing.png", "*.webp", "empty", ""])
def test_a_place_without_images_is_named(folder, place):
    (folder / "empty").mkdir()
    given = str(folder / place) if place else ""
    with pytest.raises(UsageError) as caught:
        find_image_files([str(folder), given])
    assert str(caught.value).startswith(f"--images {given}: ")


def test_read_is_decode_of_a_file(folder):
    assert read_image(folder / "b.png", size=5).shape == (5, 5, 3)
    with pytest.raises(DataError, match=r"deep: cannot be read \(Is a directory\)"):
        read_image(folder / "deep", size=5)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "GIF", "TIFF", "WEBP"])
def test_truncated_images_are_errors_that_name_the_file(file_format):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))
    complete = _encoded(noise, format=file_format)
    for cut in (0, 1, 10, len(complete) // 3, len(complete) // 2):
        with pytest.raises(DataError, match=r"cat/001: not a readable image"):
            decode_image(complete[:cut], where="cat/001")
    with pytest.raises(DataError):
        decode_image(b"<html>no image</html>", where="x")
