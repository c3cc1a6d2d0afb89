"""The options of JAX in the environment, and the platforms that are there."""

import jax
import pytest

from cifar_jax import devices
from cifar_jax.errors import DataError


@pytest.mark.parametrize(
    "name, value",
    [
        ("jax_enable_x64", True),
        ("jax_numpy_rank_promotion", "raise"),
        ("jax_numpy_dtype_promotion", "strict"),
        ("jax_debug_nans", True),
        ("jax_disable_jit", True),
    ],
)
def test_an_option_that_is_not_supported_is_reset_and_reported(name, value, caplog):
    try:
        jax.config.update(name, value)
        devices._reset_options()
        assert getattr(jax.config, name) == devices.SUPPORTED[name]
    finally:
        jax.config.update(name, devices.SUPPORTED[name])
    (record,) = caplog.records
    assert record.message == f"{name.upper()}={value} is not supported: {devices.SUPPORTED[name]} is used"


def test_a_platform_that_is_not_there_names_those_that_are(monkeypatch):
    def no_device():
        if jax.config.jax_platforms == "cuda":
            raise RuntimeError("Unable to initialize backend 'cuda':\nno driver")
        return cpu

    cpu, before = jax.devices(), jax.config.jax_platforms
    monkeypatch.setattr(jax, "devices", no_device)
    try:
        jax.config.update("jax_platforms", "cuda")
        with pytest.raises(DataError) as error:
            devices._require_platform()
    finally:
        jax.config.update("jax_platforms", before)
    reason = "Unable to initialize backend 'cuda': no driver"
    assert str(error.value).startswith(f"JAX_PLATFORMS=cuda: no such device ({reason}); available: cpu; ")
