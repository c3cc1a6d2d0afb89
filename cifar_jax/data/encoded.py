"""Images that stay in their files and are decoded when they are read."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from cifar_jax.data import decode
from cifar_jax.errors import UsageError


class EncodedImages:
    """The images of a folder where an array is expected: indexing decodes them, and keeps nothing.

    Attributes:
        shape: (N, H, W, 3).
        dtype: uint8.
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self, folder: Path, names_N: np.ndarray, sizes_N: np.ndarray, *, image_size: int, shape: tuple[int, int, int]
    ):
        """Reads no file.

        Args:
            folder: that contains the images.
            names_N: of the files, relative to it.
            sizes_N: of the files, in bytes.
            image_size: see `decode_image`.
            shape: (H, W, 3) that each image must then have.
        """
        self.shape = (len(names_N), *shape)
        self._folder, self._names_N, self._sizes_N, self._image_size = folder, names_N, sizes_N, image_size

    def __len__(self) -> int:
        return len(self._names_N)

    @property
    def nbytes(self) -> int:
        """Of all images, decoded."""
        return int(np.prod(self.shape))

    @property
    def identity(self) -> bytes:
        """Names and sizes of the files: what is known of the images without reading them."""
        lines = (f"{size} {name}" for size, name in zip(self._sizes_N, self._names_N, strict=True))
        return "\n".join(lines).encode(errors="surrogateescape")

    def take(self, indices_N: np.ndarray, axis: int = 0) -> "EncodedImages":
        """The images at `indices_N`, in that order, still encoded; `axis` is 0, as of an array."""
        names_N, sizes_N = self._names_N[indices_N], self._sizes_N[indices_N]
        return EncodedImages(self._folder, names_N, sizes_N, image_size=self._image_size, shape=self.shape[1:])

    def __getitem__(self, rows) -> np.ndarray:
        """Decoded images, uint8: (H, W, 3) of one row, (N, H, W, 3) of a slice or an array of rows.

        Raises:
            DataError: an image cannot be read.
            UsageError: an image of another size than the first, without `data.image_size`.
        """
        names = self._names_N[rows]
        if isinstance(names, str):
            return self._decoded(names)
        images_NHWC = np.empty((len(names), *self.shape[1:]), np.uint8)
        with ThreadPoolExecutor() as threads:
            for row, image_HWC in enumerate(threads.map(self._decoded, names)):
                images_NHWC[row] = image_HWC
        return images_NHWC

    def _decoded(self, name: str) -> np.ndarray:
        image_HWC = decode.read_image(self._folder / name, size=self._image_size)
        if image_HWC.shape != self.shape[1:]:
            sizes = (f"{shape[1]}x{shape[0]}" for shape in (self.shape[1:], image_HWC.shape))
            raise different_sizes(self._folder, f"{' and '.join(sizes)} ({name})")
        return image_HWC


def different_sizes(path: Path, sizes: str) -> UsageError:
    """The error of images that differ in size, for example '8x8 and 9x8 (cat/1.png)'."""
    problem = f"images of different sizes, {sizes}"
    return UsageError(f"{path}: {problem}; set --config.data.image_size=N to resize them all")
