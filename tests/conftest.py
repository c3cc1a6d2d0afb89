"""Eight CPU devices for every test."""

import os

# XLA's thread pool has one thread per core. A device that waits in a collective holds a thread, so fewer threads than
# devices deadlock (see `cifar_jax/devices.py`). The variable is read when JAX starts its backend.
os.environ.setdefault("PJRT_NPROC", "32")

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture
def devices():
    return jax.devices()
