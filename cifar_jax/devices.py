"""Devices, processes and shardings. No other file creates them.

The mesh has two axes, `data` and `fsdp`. The batch and the data set are split over both; everything else is replicated,
unless `mesh.fsdp` splits the parameters over the second (`training/sharding.py`). The same program runs on a CPU, on
GPUs, on TPUs and on several hosts.
"""

import contextlib
import contextvars
import functools
import logging
import math
import os
import sys
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cifar_jax import memory, processes
from cifar_jax.errors import DataError, UsageError, is_out_of_memory, one_line
from cifar_jax.files.cache import cache_root

FSDP_AXIS = "fsdp"
DATA_AXIS = ("data", FSDP_AXIS)
SHARDED = PartitionSpec(DATA_AXIS)
REPLICATED = PartitionSpec()

_TRACED_PLATFORM = contextvars.ContextVar("traced_platform", default="")

# Programs for debugging and other precision change the results, or break the training step.
SUPPORTED = {
    "jax_enable_x64": False,
    "jax_numpy_rank_promotion": "allow",
    "jax_numpy_dtype_promotion": "standard",
    "jax_debug_nans": False,
    "jax_debug_infs": False,
    "jax_disable_jit": False,
}


def start(config) -> None:
    """Joins other processes if there are any, splits the CPU into devices, and turns on the compilation cache.

    Must run before the first JAX computation. If JAX has already started (in a notebook), devices stay as they are.
    XLA:CPU runs large parts of a network on one core per device: on two cores, the CNN trains 1.3 times as fast on two
    devices.
    """
    for name in ("jax", "orbax", "absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    _reset_options()
    processes.join()
    if config.mesh.compilation_cache:
        _keep_compiled_programs()
    cpu_devices = config.mesh.cpu_devices or _cores_that_divide(config.train.batch_size)
    if cpu_devices > 1:
        memory.use_one_arena()
    if cpu_devices > 1 and "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        # XLA's thread pool has one thread per core, and a device that waits in a collective holds a thread. Without a
        # thread for the last device, the program aborts after 40 seconds.
        os.environ.setdefault("PJRT_NPROC", str(2 * cpu_devices))
        with contextlib.suppress(RuntimeError):  # the backend has already started; keep its devices
            jax.config.update("jax_num_cpu_devices", cpu_devices)
    _require_platform()


def _reset_options() -> None:
    """Sets options of JAX that the program does not support, from environment variables, to their defaults."""
    for name, default in SUPPORTED.items():
        if (value := getattr(jax.config, name)) != default:
            logging.warning("%s=%s is not supported: %s is used", name.upper(), value, default)
            jax.config.update(name, default)


def _require_platform() -> None:
    """Raises DataError if JAX has no devices of the platform in JAX_PLATFORMS."""
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # AssertionError: cuda, where JAX is installed without it
        chosen = jax.config.jax_platforms
        jax.config.update("jax_platforms", None)
        try:
            there = ", ".join(sorted({device.platform for device in jax.devices()}))
        except RuntimeError:
            there = "cpu"
        reason = f" ({one_line(error)[:120]})" if str(error) else ""
        fix = "choose one of these, or install JAX for your devices (docs/accelerators.md)"
        raise DataError(f"JAX_PLATFORMS={chosen}: no such device{reason}; available: {there}; {fix}") from error


def _cores_that_divide(batch_size: int) -> int:
    """The largest number of cores among which the batch divides evenly, an even number each (mixup pairs images)."""
    return next(devices for devices in range(cores(), 0, -1) if devices == 1 or batch_size % (2 * devices) == 0)


def cores() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _keep_compiled_programs() -> None:
    """Turns on the compilation cache: from the second start on, the training step is ready in 0.5 s instead of 6."""
    if not jax.config.jax_compilation_cache_dir:  # otherwise the user has chosen a folder
        jax.config.update("jax_compilation_cache_dir", str(cache_root() / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def quickly_compiled(function, mesh: Mesh | None = None):
    """`jax.jit` for programs whose run time is negligible: less optimization on XLA:CPU, with the same results.

    The initial weights of the CNN compile in 0.6 s instead of 2.1, the order of an epoch in 0.2 s instead of 0.4.

    Args:
        mesh: replicate the results on it; None = the default device of JAX.
    """
    platform = platform_of(mesh) if mesh else traced_platform()
    options = {"xla_backend_optimization_level": 1} if platform == "cpu" else {}
    shardings = {"out_shardings": NamedSharding(mesh, REPLICATED)} if mesh else {}
    return jax.jit(function, compiler_options=options, **shardings)


def make_mesh(number: int = 0, *, fsdp: int = 1) -> Mesh:
    """The mesh over the first `number` devices of all processes (0 = all of them).

    Raises:
        UsageError: there are fewer devices than `number`, or `mesh_over` reports an error.
    """
    devices = jax.devices()
    if number > len(devices):
        raise UsageError(
            f"--config.mesh.devices={number}: there are {len(devices)} ({devices[0].platform}); use at most that many"
        )
    return mesh_over(devices[: number or None], fsdp=fsdp)


def mesh_over(devices: Sequence[jax.Device], *, fsdp: int = 1) -> Mesh:
    """The mesh over these devices, which may be of another machine (`targets/topology.py`).

    Args:
        fsdp: the number of neighboring devices that share one copy of the parameters.

    Raises:
        UsageError: the number of devices is not a multiple of `fsdp`.
    """
    if len(devices) % fsdp:
        raise UsageError(f"--config.mesh.fsdp={fsdp}: the {len(devices)} devices do not divide by it; use a divisor")
    return Mesh(np.array(devices).reshape(-1, fsdp), DATA_AXIS)


def platform_of(mesh: Mesh) -> str:
    """'cpu', 'gpu' or 'tpu'."""
    return mesh.devices.flat[0].platform


def traced_platform() -> str:
    """The platform of the program that is being traced: that of its mesh, else of the default device of JAX.

    The only question about the platform in models: the forms of a computation depend on the devices that a program is
    compiled for, which this machine may lack.
    """
    return _TRACED_PLATFORM.get() or jax.default_backend()


@contextlib.contextmanager
def tracing_for(platform: str) -> Iterator[None]:
    """Programs traced inside are for `platform`; 'any': with XLA's own operations only, to run on every platform."""
    token = _TRACED_PLATFORM.set(platform)
    try:
        yield
    finally:
        _TRACED_PLATFORM.reset(token)


def split_over_devices(function, mesh: Mesh, *, in_specs, out_specs):
    """`function`, run by every device on its shard. It may use collectives over `DATA_AXIS`."""

    @functools.wraps(function)
    def on_platform(*arguments):
        with tracing_for(platform_of(mesh)):
            return function(*arguments)

    # check_vma=False differentiates as pmap did: the gradient of a local mean stays local, and the training step
    # averages it over the devices explicitly.
    return jax.shard_map(on_platform, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def replicate(tree, mesh: Mesh):
    """A copy of host or device arrays on every device of the mesh."""
    return jax.device_put(tree, NamedSharding(mesh, REPLICATED))


def replicated_like(tree, mesh: Mesh):
    """Shapes and dtypes of `tree` with the replicated sharding."""
    return placed_like(tree, jax.tree.map(lambda _: REPLICATED, tree), mesh)


def placed_like(tree, specs, mesh: Mesh):
    """Shapes and dtypes of `tree`, each with its element of `specs`: the target for restoring a checkpoint."""

    def placed(x, spec):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec))

    return jax.tree.map(placed, tree, specs)


def split_along(dimension: int) -> PartitionSpec:
    """Of arrays of which the devices along `FSDP_AXIS` have equal parts."""
    return PartitionSpec(*[None] * dimension, FSDP_AXIS)


def shard_rows(array_N: np.ndarray, mesh: Mesh) -> jax.Array:
    """Splits the rows of a host array over the mesh, padded with zeros to a multiple of its size.

    Every process holds the whole array and uploads only the rows of the devices that it controls.

    Raises:
        DataError: the devices have too little memory; the message names the number of images that fit.
    """
    rows = math.ceil(len(array_N) / mesh.size) * mesh.size
    sharding = NamedSharding(mesh, SHARDED)
    if array_N.nbytes > 2**28:  # asking costs milliseconds
        fix = "use fewer, with --config.data.limit=N"
        require_free(array_N.nbytes // mesh.size, mesh, what=f"{len(array_N):,} images", fix=fix)

    def part(index):
        rows_of_device = array_N[index[0]]
        start, stop, _ = index[0].indices(rows)
        padding = [(0, stop - start - len(rows_of_device))] + [(0, 0)] * (array_N.ndim - 1)
        return np.pad(rows_of_device, padding) if padding[0][1] else rows_of_device

    return jax.make_array_from_callback((rows, *array_N.shape[1:]), sharding, part)


def rows_of_process(size: int, mesh: Mesh) -> np.ndarray:
    """Which of `size` rows, split over the mesh, the devices of this process have; increasing."""
    parts = NamedSharding(mesh, SHARDED).addressable_devices_indices_map((size,)).values()
    return np.sort(np.concatenate([np.arange(size)[part] for part in parts]))


def shard_rows_of_process(arrays, mesh: Mesh):
    """Uploads host arrays that have only the `rows_of_process`; the rows of the results are split over the mesh."""
    sharding = NamedSharding(mesh, SHARDED)
    return jax.tree.map(functools.partial(jax.make_array_from_process_local_data, sharding), arrays)


def sharded_like(tree, mesh: Mesh):
    """Shapes and dtypes of `shard_rows` applied to the arrays of `tree`."""
    sharding = NamedSharding(mesh, SHARDED)

    def padded(array_N):
        rows = math.ceil(len(array_N) / mesh.size) * mesh.size
        return jax.ShapeDtypeStruct((rows, *array_N.shape[1:]), array_N.dtype, sharding=sharding)

    return jax.tree.map(padded, tree)


def free_bytes(mesh: Mesh) -> int:
    """The memory that is free on a device of this process; devices on CPU share the memory of the machine."""
    first = mesh.local_devices[0]
    if first.platform == "cpu":
        memory.tidy()  # blocks that malloc keeps for the next step are free as well
        return memory.free_bytes() // len(mesh.local_devices)
    stats = first.memory_stats() or {}
    return stats["bytes_limit"] - stats["bytes_in_use"] if "bytes_limit" in stats else sys.maxsize


def require_free(needed: int, mesh: Mesh, *, what: str, fix: str) -> None:
    """Raises DataError if fewer than `needed` bytes are free on a device."""
    if needed > (free := free_bytes(mesh)):
        raise DataError(f"{what}: {_gigabytes(needed)} on each of {describe(mesh)}, {_gigabytes(free)} are free: {fix}")


def compile_to_fit(lowered, mesh: Mesh, *, key: str, batch_size: int, fixed_bytes: int = 0):
    """Compiles a program that processes one batch, if its batch fits into the memory of the devices.

    Args:
        lowered: from `jax.jit(...).lower`.
        key: of the batch size, such as 'train.batch_size'.
        fixed_bytes: the part of its memory that does not depend on the batch size.

    Raises:
        DataError: out of memory; the message names the batch size that fits.
    """
    with naming_batch(key, batch_size):
        compiled = lowered.compile()
    usage = compiled.memory_analysis()
    needed = usage.temp_size_in_bytes + usage.output_size_in_bytes - usage.alias_size_in_bytes
    of_batch, room = needed - fixed_bytes, 0.9 * free_bytes(mesh) - fixed_bytes
    fitting = int(batch_size * room / max(of_batch, 1)) // (2 * mesh.size) * 2 * mesh.size  # mixup pairs images
    fix = f"use at most --config.{key}={fitting}" if fitting > 0 else "use a smaller model or smaller images"
    require_free(needed, mesh, what=f"--config.{key}={batch_size}", fix=fix)
    return compiled


@contextlib.contextmanager
def naming_batch(key: str, batch_size: int) -> Iterator[None]:
    """Reports that the devices are out of memory as DataError; the message halves the batch."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory(error):
            raise
        fix = f"use --config.{key}={batch_size // 2}" if batch_size > 1 else "use a smaller model"
        raise DataError(f"--config.{key}={batch_size}: {one_line(error)}: {fix}") from error


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB"


def is_first_process() -> bool:
    """True in the process that writes the run folder."""
    return jax.process_index() == 0


def describe(mesh: Mesh) -> str:
    """For tables and logs, e.g. '2 x cpu' or '8 x TPU v5 lite'."""
    return f"{mesh.size} x {mesh.devices.flat[0].device_kind}"
