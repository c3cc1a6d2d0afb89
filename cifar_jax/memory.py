"""How much memory is free, and settings of glibc's malloc: huge pages that are kept between training steps.

Other allocators are not changed.
"""

import contextlib
import ctypes
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

# Huge pages, and no memory returned to the system between steps. No per-thread caches of small blocks, which would
# keep neighboring free blocks from merging. glibc reads these at its start.
TUNABLES = ":".join(
    (
        "glibc.malloc.hugetlb=1",
        "glibc.malloc.mmap_max=0",
        "glibc.malloc.trim_threshold=17179869184",
        "glibc.malloc.tcache_count=0",
    )
)
M_ARENA_MAX = -8  # from malloc.h

GAP = 64 * 2**20  # bytes of address space; must be less than a training step allocates


def free_bytes() -> int:
    """The memory that this process can still allocate: of the machine, its containers (cgroups) and `ulimit -v`.

    `sys.maxsize` where the system does not report it.
    """
    return max(0, min(_free(), default=sys.maxsize))


def _free() -> Iterator[int]:
    machine = _numbers("/proc/meminfo")
    if "MemAvailable" in machine:
        yield 1024 * (machine["MemAvailable"] + machine.get("SwapFree", 0))
    if limit := _numbers("/proc/self/limits").get("Max address space"):
        yield limit - 1024 * _numbers("/proc/self/status").get("VmSize", 0)
    for folder in _cgroups():
        cached = _numbers(folder / "memory.stat").get("inactive_file", 0)  # the system takes it back when needed
        for limit, usage in (("max", "current"), ("limit_in_bytes", "usage_in_bytes")):  # version 2, version 1
            values = [_numbers(folder / f"memory.{name}").get("") for name in (limit, usage)]
            if None not in values:
                yield values[0] - values[1] + cached


def _cgroups() -> Iterator[Path]:
    """The folders of the cgroups that limit the memory of this process."""
    for line in _read("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            root = Path("/sys/fs/cgroup", controllers)
            group = root / path.lstrip("/")
            yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(root))


def _numbers(file: str | Path) -> dict[str, int]:
    """The numbers by name in lines such as 'name 5', 'name: 5 kB' or '5' (name ''); without text such as 'max'."""
    matches = re.finditer(r"^([^:\d\n]*?):?\s*(\d+)\b", _read(file), re.MULTILINE)
    return {match[1].strip(): int(match[2]) for match in matches}


def _read(file: str | Path) -> str:
    try:
        return Path(file).read_text()
    except OSError:
        return ""


def is_glibc() -> bool:
    """True if this process uses glibc's malloc; otherwise the functions below do nothing."""
    return sys.platform == "linux" and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")


def use_huge_pages() -> None:
    """Restarts this program in the same process (exec) with `TUNABLES`. Call it before anything else.

    XLA:CPU allocates the memory of a training step, a gigabyte or more, at every step. With glibc's defaults this
    causes 250,000 page faults per step; with the tunables there are hardly any, and the CNN trains 1.2 times as fast on
    two cores (`benchmarks/README.md`). If the user has set GLIBC_TUNABLES, it is kept.
    """
    if is_glibc() and "GLIBC_TUNABLES" not in os.environ:
        with contextlib.suppress(OSError):  # the program is slower, but works
            os.execve(sys.executable, sys.orig_argv, os.environ | {"GLIBC_TUNABLES": TUNABLES})


def use_one_arena() -> None:
    """Makes all threads that start later allocate from the main arena (glibc, with `TUNABLES`).

    Call it before JAX computes if the CPU is split into several devices. Training steps then run on other threads, and
    glibc ignores the tunables in their arenas: it maps and unmaps a gigabyte per step. The cost is contention between
    threads that allocate: a ResNet-50 compiles in 17 s instead of 10 s.
    """
    if is_glibc() and os.environ.get("GLIBC_TUNABLES") == TUNABLES:
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)


def tidy() -> None:
    """Returns free memory to the system and leaves a gap for small blocks (glibc, with `TUNABLES`).

    Call it rarely, between steps: memory that is needed again causes page faults again, 0.1 s or more. glibc puts a
    block into the smallest gap that fits. Without a gap, small blocks go to the end of the heap, the next step does not
    fit where the last one was, and the heap grows by half a gigabyte at a time.
    """
    if is_glibc() and os.environ.get("GLIBC_TUNABLES") == TUNABLES:
        libc = ctypes.CDLL(None)
        libc.malloc_trim(0)
        libc.malloc.restype = ctypes.c_void_p
        gap = ctypes.c_void_p(libc.malloc(ctypes.c_size_t(GAP)))
        libc.malloc(ctypes.c_size_t(64))  # never freed: it separates the gap from the end of the heap
        libc.free(gap)
