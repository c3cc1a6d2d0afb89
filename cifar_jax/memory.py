"""Memory of the process in huge pages that are kept from step to step (glibc; elsewhere nothing changes)."""

import ctypes
import os
import sys

# Huge pages for what malloc hands out, and nothing given back in between. No caches of small blocks: those
# that lie between two large ones would keep them apart. Read by glibc at its start.
TUNABLES = ":".join(
    (
        "glibc.malloc.hugetlb=1",
        "glibc.malloc.mmap_max=0",
        "glibc.malloc.trim_threshold=17179869184",
        "glibc.malloc.tcache_count=0",
    )
)
M_ARENA_MAX = -8  # of malloc.h

GAP = 64 * 2**20  # bytes, of which only what is used takes memory; less than a step needs


def is_glibc() -> bool:
    """Whether this process has glibc's malloc; with any other, nothing in this file does anything."""
    return sys.platform == "linux" and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")


def use_huge_pages() -> None:
    """Starts this program anew, in the same process, with glibc set to `TUNABLES`. To be called before all else.

    XLA:CPU asks for the memory of a training step, a gigabyte or more, at every step. As glibc comes, that is a
    quarter of a million page faults a step; with the tunables there is hardly any, and the CNN trains 1.2 times as fast
    on two cores (`benchmarks/README.md`). Where the user has set GLIBC_TUNABLES, that stands.
    """
    if is_glibc() and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = TUNABLES
        os.execv(sys.executable, sys.orig_argv)


def use_one_arena() -> None:
    """Makes all threads that start from now on share the memory of the first one (glibc, with `TUNABLES`).

    To be called before JAX computes, where the CPU is more than one device. A step then runs on threads of its own, and
    in an arena other than the first one glibc maps and unmaps large memory whatever the tunables say: a gigabyte a
    step. Its price is that threads wait for each other where they allocate much: a ResNet-50 is compiled in 17 s
    instead of 10, which a single device need not pay, as its steps run on the first thread.
    """
    if is_glibc() and os.environ.get("GLIBC_TUNABLES") == TUNABLES:
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)


def tidy() -> None:
    """Gives back what malloc holds and nobody uses, and leaves a gap for small blocks (glibc only).

    To be called now and then between steps: what is needed again costs its page faults again, a tenth of a second or
    more. glibc gives a block the smallest gap that it fits in. Without any, small blocks go to the end of the heap, the
    next step does not fit any more where the last one was, and takes new memory, half a gigabyte at a time.
    """
    if is_glibc() and os.environ.get("GLIBC_TUNABLES") == TUNABLES:
        libc = ctypes.CDLL(None)
        libc.malloc_trim(0)
        libc.malloc.restype = ctypes.c_void_p
        gap = ctypes.c_void_p(libc.malloc(ctypes.c_size_t(GAP)))
        libc.malloc(ctypes.c_size_t(64))  # never freed: it keeps the gap apart from the end of the heap
        libc.free(gap)
