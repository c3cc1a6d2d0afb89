"""Settings of glibc's malloc: huge pages that are kept between training steps. Other allocators are not changed."""

import contextlib
import ctypes
import os
import sys

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
