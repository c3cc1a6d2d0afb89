"""The devices that `--mode inspect --target` compiles for, with their published figures."""

import dataclasses
import os

from cifar_jax.errors import UsageError

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Target:
    """A device, or several of a kind.

    Attributes:
        platform: 'tpu', 'cuda' or 'cpu'.
        devices: of all hosts; a TPU v2 is two devices.
        memory: bytes of one device.
        usable_memory: of these, bytes that a program gets. TPU: as the compiler states (15.75 of 16 GiB). GPU: the
            three quarters that JAX reserves at its start.
        peak_flops: of one device in bfloat16, per second; None = not known.
        bandwidth: of the memory of one device, bytes per second; None = not known.
        topology: arguments of `jax.experimental.topologies.get_topology_desc`.
        launch_seconds: of one kernel; 0 where a step is one program.
    """

    platform: str
    devices: int
    memory: int
    usable_memory: int
    peak_flops: float | None
    bandwidth: float | None
    topology: dict = dataclasses.field(default_factory=dict)
    launch_seconds: float = 0.0


def _tpu(topology_name: str, *, devices: int, gib: int, tflops: float, gb_per_second: float) -> Target:
    topology = {"topology_name": topology_name}
    if devices == 1:
        topology["chips_per_host_bounds"] = (1, 1, 1)
    usable = int(gib * GIB * 63 / 64)
    return Target("tpu", devices, gib * GIB, usable, tflops * 1e12, gb_per_second * 1e9, topology)


def _gpu(
    name: str, *, capability: int, cores: int, memory: int, tflops: float, gb_per_second: float, **limits
) -> Target:
    """`limits` are those by which generations differ, as XLA names them."""
    fields = {
        "core_count": cores,
        "device_memory_size": memory,
        "memory_bandwidth": int(gb_per_second * 1e9),
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "threads_per_core_limit": 2048,
        "shared_memory_per_block": 49152,
        "registers_per_core_limit": 65536,
        "registers_per_block_limit": 65536,
        "block_dim_limit_x": 2147483647,
        "block_dim_limit_y": 65535,
        "block_dim_limit_z": 65535,
        **limits,
    }
    device = " ".join(f"{field}: {value}" for field, value in fields.items())
    config = (
        f"gpu_device_info {{ {device} cuda_compute_capability {{ major: {capability} }} }} platform_name: 'CUDA' "
        f"dnn_version_info {{ major: 9 minor: 8 }} runtime_version {{ major: 12 minor: 8 }} "
        f"device_description_str: '{name}'"
    )
    topology = {"topology_name": "", "topology": "1x1x1", "target_config": config}
    usable, launch_seconds = int(0.75 * memory), 2e-6
    return Target("cuda", 1, memory, usable, tflops * 1e12, gb_per_second * 1e9, topology, launch_seconds)


_HOPPER = {
    "capability": 9,
    "cores": 132,
    "fpus_per_core": 128,
    "clock_rate_ghz": 1.98,
    "l2_cache_size": 50 << 20,
    "shared_memory_per_core": 228 << 10,
    "shared_memory_per_block_optin": 227 << 10,
}
_AMPERE = {
    "capability": 8,
    "cores": 108,
    "fpus_per_core": 64,
    "clock_rate_ghz": 1.41,
    "l2_cache_size": 40 << 20,
    "shared_memory_per_core": 164 << 10,
    "shared_memory_per_block_optin": 163 << 10,
}

# TPU v5e, v6e: docs.cloud.google.com/tpu/docs. v2: Jouppi et al., A Domain-Specific Supercomputer, 2020; half a chip.
# GPU: NVIDIA's data sheets of the SXM boards, dense bfloat16; the A100 is the one with 40 GB.
TARGETS = {
    "v5e-1": _tpu("v5e:1x1", devices=1, gib=16, tflops=197, gb_per_second=819),
    "v5e-8": _tpu("v5e:2x4", devices=8, gib=16, tflops=197, gb_per_second=819),
    "v5e-16": _tpu("v5e:4x4", devices=16, gib=16, tflops=197, gb_per_second=819),  # four hosts
    "v6e-1": _tpu("v6e:1x1", devices=1, gib=32, tflops=918, gb_per_second=1638),
    "v2-8": _tpu("v2:2x2", devices=8, gib=8, tflops=23, gb_per_second=350),
    "h100": _gpu("NVIDIA H100 80GB HBM3", memory=84_942_979_072, tflops=990, gb_per_second=3352, **_HOPPER),
    "h200": _gpu("NVIDIA H200", memory=151_397_597_184, tflops=990, gb_per_second=4800, **_HOPPER),
    "a100": _gpu("NVIDIA A100-SXM4-40GB", memory=42_331_013_120, tflops=312, gb_per_second=1555, **_AMPERE),
}
NAMES = (*TARGETS, "cpu")


def find(name: str) -> Target:
    """The target of this name; 'cpu' is the CPU of this machine, whose peaks are not known.

    Raises:
        UsageError: there is none.
    """
    if name == "cpu":
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return Target("cpu", devices=1, memory=memory, usable_memory=memory, peak_flops=None, bandwidth=None)
    if name not in TARGETS:
        raise UsageError(f"--target={name}: must be one of {', '.join(NAMES)}")
    return TARGETS[name]
