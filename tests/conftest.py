"""Eight CPU devices for every test."""

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture
def devices():
    return jax.devices()
