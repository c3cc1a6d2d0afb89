"""Devices, processes and shardings: the only file that names them.

There is one mesh axis, `data`: the batch and the data set are split over it, everything else is replicated. The same
program runs on one CPU, on a GPU, on the cores of a TPU and on several hosts.
"""

import contextlib
import logging
import math
import os

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cifar_jax import memory
from cifar_jax.errors import UsageError
from cifar_jax.files.cache import cache_root

DATA_AXIS = "data"
SHARDED = PartitionSpec(DATA_AXIS)
REPLICATED = PartitionSpec()


def start(config) -> None:
    """`initialize` as `config.mesh` says, and without the log messages that libraries write for their developers."""
    for name in ("jax", "orbax", "absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    initialize(
        cpu_devices=config.mesh.cpu_devices,
        batch_size=config.train.batch_size,
        compilation_cache=config.mesh.compilation_cache,
    )


def initialize(*, cpu_devices: int, batch_size: int, compilation_cache: bool) -> None:
    """Joins the other processes, where there are any, splits the CPU into devices, and turns on the compilation cache.

    Must run before the first JAX computation; where JAX already runs (in a notebook, say) its devices stay as they are.

    Args:
        cpu_devices: devices to split the CPU into; 0 = one for each core, as far as they divide the batch. XLA:CPU
            runs much of a network on one core a device: on two cores, the CNN trains 1.3 times as fast on two devices.
        batch_size: of training.
        compilation_cache: keep compiled programs in $JAX_COMPILATION_CACHE_DIR, else under ~/.cache/cifar_jax.
    """
    _join_processes()
    if compilation_cache:
        _keep_compiled_programs()
    if cpu_devices == 0:
        cpu_devices = _cores_that_divide(batch_size)
    if cpu_devices > 1:
        memory.use_one_arena()
    if cpu_devices > 1 and "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        # Devices that wait for each other hold threads of XLA's pool, which has one a core; with no thread left for the
        # one that they wait for, the program aborts after 40 seconds.
        os.environ.setdefault("PJRT_NPROC", str(2 * cpu_devices))
        with contextlib.suppress(RuntimeError):  # the backend is already up; its devices are as good
            jax.config.update("jax_num_cpu_devices", cpu_devices)


def _cores_that_divide(batch_size: int) -> int:
    """As many of the cores that this process may use as share out a batch evenly, in even parts (for mixup)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return next(devices for devices in range(cores, 0, -1) if devices == 1 or batch_size % (2 * devices) == 0)


def _keep_compiled_programs() -> None:
    """The second start of a run takes its programs from the disk: 0.5 s instead of 6 for the training step."""
    if not jax.config.jax_compilation_cache_dir:  # else the user has chosen one
        jax.config.update("jax_compilation_cache_dir", str(cache_root() / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def quickly_compiled(function, **arguments):
    """`jax.jit` of a program that takes no time but to compile: XLA:CPU optimizes it less, and gives the same numbers.

    The initial weights of the CNN are compiled in 0.6 s instead of 2.1, the order of an epoch in 0.2 instead of 0.4.
    """
    options = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else {}
    return jax.jit(function, compiler_options=options, **arguments)


def _join_processes() -> None:
    """Calls `jax.distributed.initialize` where this process was started as one of several."""
    if "JAX_COORDINATOR_ADDRESS" in os.environ:  # started by hand: all three are given in the environment
        missing = [name for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID") if name not in os.environ]
        if missing:
            raise UsageError(f"JAX_COORDINATOR_ADDRESS is set but {' and '.join(missing)} is not: set all three")
        jax.distributed.initialize(
            coordinator_address=os.environ["JAX_COORDINATOR_ADDRESS"],
            num_processes=int(os.environ["JAX_NUM_PROCESSES"]),
            process_id=int(os.environ["JAX_PROCESS_ID"]),
        )
    elif (
        int(os.environ.get("SLURM_NTASKS", "1")) > 1
        or int(os.environ.get("OMPI_COMM_WORLD_SIZE", "1")) > 1
        or "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")
    ):
        jax.distributed.initialize()  # recognizes these clusters by itself


def make_mesh(number: int = 0) -> Mesh:
    """The mesh over the first `number` devices of all processes (0 = all of them).

    Raises:
        UsageError: fewer devices than asked for.
    """
    devices = jax.devices()
    if number > len(devices):
        raise UsageError(
            f"--config.mesh.devices={number}: there are {len(devices)} ({devices[0].platform}); ask for at most that"
        )
    return Mesh(np.array(devices[: number or None]), (DATA_AXIS,))


def split_over_devices(function, mesh: Mesh, *, in_specs, out_specs):
    """`function`, run by every device on its own part; it may use collectives over `DATA_AXIS`."""
    # check_vma=False keeps the rules of differentiation that pmap had: the gradient of a local mean is local, and
    # the mean over devices is taken once, by name, in the training step.
    return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def replicate(tree, mesh: Mesh):
    """A copy of host or device arrays on every device of the mesh."""
    return jax.device_put(tree, NamedSharding(mesh, REPLICATED))


def replicated_like(tree, mesh: Mesh):
    """Shapes and dtypes of `tree` with the replicated sharding: what a checkpoint is restored into."""
    sharding = NamedSharding(mesh, REPLICATED)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def shard_rows(array_N: np.ndarray, mesh: Mesh) -> jax.Array:
    """Splits the rows of a host array over the mesh, padded with zeros to a multiple of its size.

    Every process holds the whole host array and uploads only the rows of its own devices.
    """
    rows = math.ceil(len(array_N) / mesh.size) * mesh.size
    sharding = NamedSharding(mesh, SHARDED)

    def part(index):
        wanted = array_N[index[0]]
        start, stop, _ = index[0].indices(rows)
        padding = [(0, stop - start - len(wanted))] + [(0, 0)] * (array_N.ndim - 1)
        return np.pad(wanted, padding) if padding[0][1] else wanted

    return jax.make_array_from_callback((rows, *array_N.shape[1:]), sharding, part)


def sharded_like(tree, mesh: Mesh):
    """Shapes and dtypes of what `shard_rows` makes of the arrays of `tree`."""
    sharding = NamedSharding(mesh, SHARDED)

    def padded(array_N):
        rows = math.ceil(len(array_N) / mesh.size) * mesh.size
        return jax.ShapeDtypeStruct((rows, *array_N.shape[1:]), array_N.dtype, sharding=sharding)

    return jax.tree.map(padded, tree)


def is_first_process() -> bool:
    """True in the one process that writes the run folder."""
    return jax.process_index() == 0


def describe(mesh: Mesh) -> str:
    """For tables and logs, e.g. '2 x cpu' or '8 x TPU v5 lite'."""
    return f"{mesh.size} x {mesh.devices.flat[0].device_kind}"
