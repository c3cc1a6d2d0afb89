"""Meshes of devices that this machine lacks: enough to compile for them, not to run."""

import importlib.util
import os

import jax
from jax.experimental import topologies
from jax.sharding import Mesh

from cifar_jax import devices
from cifar_jax.errors import DataError, UsageError, one_line
from cifar_jax.targets.catalog import Target

COMPILERS = {  # platform -> the extra of setup.cfg that brings its compiler, and modules of which one is there then
    "tpu": ("tpu", ("libtpu",)),
    "cuda": ("cuda", ("jax_cuda12_plugin", "jax_cuda13_plugin")),
}
# libtpu looks for the machine's TPUs on the network, allows one process, and logs what it misses.
_QUIET_LIBTPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",  # the topology decides
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_MIN_LOG_LEVEL": "4",
    "TPU_STDERR_LOG_LEVEL": "4",
}


def start() -> None:
    """Prepares JAX for compiling only: this process uses no accelerator, and no program from the compilation cache.

    Must run before the first JAX computation.
    """
    for name, value in _QUIET_LIBTPU.items():
        os.environ.setdefault(name, value)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)  # its programs have neither compile seconds nor costs


def mesh_of(target: Target, name: str, *, fsdp: int) -> Mesh:
    """The mesh of a target that is not the CPU of this machine.

    Raises:
        UsageError: the compiler of its platform is not installed; the message names the extra that has it.
        DataError: this version of JAX cannot compile for it here.
    """
    extra, modules = COMPILERS[target.platform]
    if not any(map(importlib.util.find_spec, modules)):
        raise UsageError(
            f"--target={name} needs the compiler for {target.platform.upper()}: pip install '.[{extra}]' (the device "
            "itself is not needed)"
        )
    try:
        described = topologies.get_topology_desc(platform=target.platform, **target.topology)
    except (RuntimeError, NotImplementedError, ValueError) as error:  # JAX: of the compiler's library
        raise DataError(
            f"--target={name}: JAX {jax.__version__} cannot compile for it here: {one_line(error)}"
        ) from error
    return devices.mesh_over(described.devices, fsdp=fsdp)
