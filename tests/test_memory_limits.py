"""What does not fit into memory is refused before it is allocated; the message names what fits."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifar_jax import devices, memory
from cifar_jax.errors import DataError


@pytest.fixture
def mesh():
    return devices.make_mesh(2)


def with_free(monkeypatch, size: int) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda: size)


def lowered(batch_size: int):
    """A program that needs 4 kB for each image of a batch, and 40 kB besides."""
    table = jnp.ones((100, 100))
    return jax.jit(
        lambda x_B: jnp.sort(jnp.sin(x_B[:, None] + jnp.arange(1000)), axis=0) @ jnp.ones(1000) + table[0, 0]
    ).lower(jnp.ones(batch_size))


def test_the_named_batch_size_fits_and_a_larger_one_does_not(mesh, monkeypatch):
    with_free(monkeypatch, 2 * 4_000_000)  # shared by two devices
    with pytest.raises(DataError) as error:
        devices.compile_to_fit(lowered(20_000), mesh, key="train.batch_size", batch_size=20_000)
    assert re.fullmatch(
        r"--config\.train\.batch_size=20000: 0\.\d GB on each of 2 x cpu, 0\.0 GB are free: "
        r"use at most --config\.train\.batch_size=\d+",
        str(error.value),
    )
    fitting = int(str(error.value).rpartition("=")[2])
    devices.compile_to_fit(lowered(fitting), mesh, key="train.batch_size", batch_size=fitting)
    with pytest.raises(DataError):
        devices.compile_to_fit(lowered(2 * fitting), mesh, key="train.batch_size", batch_size=2 * fitting)


def test_a_program_that_fits_with_no_batch_asks_for_a_smaller_model(mesh, monkeypatch):
    with_free(monkeypatch, 1000)
    with pytest.raises(DataError, match="use a smaller model or smaller images"):
        devices.compile_to_fit(lowered(10), mesh, key="train.batch_size", batch_size=10, fixed_bytes=1000)


def test_an_error_of_the_device_names_half_the_batch():
    with pytest.raises(DataError) as error, devices.naming_batch("train.batch_size", 512):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 7200000000 bytes.\n  stack")
    assert str(error.value).startswith("--config.train.batch_size=512: RESOURCE_EXHAUSTED: Out of memory allocating 72")
    assert str(error.value).endswith("use --config.train.batch_size=256") and "\n" not in str(error.value)
    with pytest.raises(jax.errors.JaxRuntimeError), devices.naming_batch("train.batch_size", 512):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")


def test_a_data_set_that_does_not_fit_asks_for_fewer_images(mesh, monkeypatch):
    with_free(monkeypatch, 10**8)
    images_NHWC = np.broadcast_to(np.uint8(0), (10**6, 32, 32, 3))  # takes no memory
    with pytest.raises(DataError, match=r"1,000,000 images: 1\.5 GB on each of 2 x cpu, .* --config\.data\.limit=N"):
        devices.shard_rows(images_NHWC, mesh)


@pytest.mark.parametrize(
    "files, free",
    [
        ({"/proc/meminfo": "MemTotal: 9 kB\nMemAvailable:    5 kB\nSwapFree: 1 kB\n"}, 6 * 1024),
        (
            {
                "/proc/meminfo": "MemAvailable: 5 kB\n",
                "/proc/self/limits": "Limit  Soft Limit  Hard Limit\nMax address space   4096   unlimited  bytes\n",
                "/proc/self/status": "VmSize:\t       3 kB\n",
            },
            1024,
        ),
        (
            {
                "/proc/self/cgroup": "0::/a/b\n",
                "/sys/fs/cgroup/a/memory.max": "700\n",
                "/sys/fs/cgroup/a/memory.current": "300\n",
                "/sys/fs/cgroup/a/memory.stat": "anon 5\ninactive_file 50\n",
                "/sys/fs/cgroup/a/b/memory.max": "max\n",
                "/sys/fs/cgroup/a/b/memory.current": "300\n",
            },
            450,
        ),
        (
            {
                "/proc/self/cgroup": "4:memory:/job\n2:cpu:/job\n0::/\n",
                "/sys/fs/cgroup/memory/job/memory.limit_in_bytes": "1000\n",
                "/sys/fs/cgroup/memory/job/memory.usage_in_bytes": "2000\n",
            },
            0,
        ),
    ],
)
def test_free_memory_is_that_of_the_machine_the_container_and_ulimit(files, free, monkeypatch):
    monkeypatch.setattr(memory, "_read", lambda file: files.get(str(file), ""))
    assert memory.free_bytes() == free
