"""The options of JAX in the environment, the platforms that are there, and the one that a program is for."""

import functools

import jax
import jax.numpy as jnp
import pytest

from cifar_jax import devices
from cifar_jax.config import load_config
from cifar_jax.errors import DataError
from cifar_jax.experiment import without_data
from cifar_jax.models.layers import convolve


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


def convolutions_for(mesh) -> int:
    """How many convolution operations a 1x1 convolution becomes; the form for CPU is a matrix product."""
    settings = {"in_specs": (devices.SHARDED, devices.REPLICATED), "out_specs": devices.SHARDED}
    on_mesh = devices.split_over_devices(functools.partial(convolve, stride=1), mesh, **settings)
    return str(jax.make_jaxpr(on_mesh)(jnp.ones((8, 4, 4, 3)), jnp.ones((1, 1, 3, 5)))).count("conv_general_dilated")


@pytest.mark.parametrize(("platform", "count"), [("cpu", 0), ("tpu", 1), ("gpu", 1)])
def test_the_form_of_a_convolution_follows_the_mesh(platform, count, monkeypatch):
    monkeypatch.setattr(devices, "platform_of", lambda mesh: platform)
    assert convolutions_for(devices.make_mesh()) == count


def test_the_default_backend_changes_nothing_for_a_mesh_of_cpus(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    experiment = without_data(load_config("cnn_scratch"))
    assert experiment.model.dtype == jnp.float32 and experiment.steps_per_dispatch == 1
    assert convolutions_for(experiment.mesh) == 0


def test_an_accelerator_runs_the_steps_between_two_log_lines_in_one_call(monkeypatch):
    monkeypatch.setattr(devices, "platform_of", lambda mesh: "tpu")
    experiment = without_data(load_config("cnn_scratch"))
    assert experiment.model.dtype == jnp.bfloat16
    assert experiment.steps_per_dispatch == 45_000 // 512 // 10


def test_programs_for_every_platform_use_operations_of_xla():
    arguments = jnp.ones((2, 4, 4, 3)), jnp.ones((1, 1, 3, 5))
    with devices.tracing_for("any"):
        assert "conv_general_dilated" in str(jax.make_jaxpr(functools.partial(convolve, stride=1))(*arguments))
