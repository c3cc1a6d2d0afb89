"""Eight CPU devices for every test."""

import os

# Devices that wait for each other hold threads of XLA's pool, which has one a core: with fewer threads than devices
# that wait, a collective never ends (see `cifar_jax/mesh.py`). Read once, when JAX starts its backend.
os.environ.setdefault("PJRT_NPROC", "32")

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture
def devices():
    return jax.devices()
