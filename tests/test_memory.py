"""With our malloc settings glibc keeps the memory of a training step for the next step and can release unused memory.

Each test program runs in a new process, because glibc reads its tunables at the start.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cifar_jax import memory

pytestmark = pytest.mark.slow

ONLY_ON_GLIBC = pytest.mark.skipif(
    not memory.is_glibc(),
    reason="measures glibc's malloc; test_other_allocators_are_not_changed covers the others",
)
ROOT = Path(__file__).parents[1]
BLOCK = 64 * 2**20  # bytes
PRELUDE = f"""
import ctypes, os, resource, threading
from cifar_jax import memory
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p

def fill_and_free(blocks):
    taken = [ctypes.c_void_p(libc.malloc(ctypes.c_size_t({BLOCK}))) for _ in range(blocks)]
    for block in taken:
        libc.memset(block, 1, ctypes.c_size_t({BLOCK}))
    for block in taken:
        libc.free(block)

def in_a_thread(call):
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()

def resident():
    return os.sysconf("SC_PAGE_SIZE") * int(open("/proc/self/statm").read().split()[1])
"""


def printed(program: str, tunables: str) -> list[int]:
    """Runs PRELUDE + `program` with these tunables; returns the integers that it prints."""
    environment = os.environ | {"GLIBC_TUNABLES": tunables}
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + program],
        cwd=ROOT,
        env=environment,
        text=True,
        check=True,
        stdout=subprocess.PIPE,
    )
    return [int(word) for word in done.stdout.split()]


def page_faults_of_second_use(tunables: str, *, one_arena: bool = True) -> int:
    """Page faults when a thread (XLA allocates in threads) fills a block of a size that was freed before."""
    program = "memory.use_one_arena()" if one_arena else ""
    program += """
def twice():
    fill_and_free(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    fill_and_free(1)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
in_a_thread(twice)
"""
    return printed(program, tunables)[0]


@ONLY_ON_GLIBC
def test_freed_memory_is_reused_without_page_faults():
    assert page_faults_of_second_use(memory.TUNABLES) < 10
    # Controls: the defaults of glibc, and the tunables without `use_one_arena`.
    assert page_faults_of_second_use("glibc.malloc.hugetlb=0") >= BLOCK // 2**21
    assert page_faults_of_second_use(memory.TUNABLES, one_arena=False) >= BLOCK // 2**21


@ONLY_ON_GLIBC
def test_tidy_releases_unused_memory():
    program = "fill_and_free(3); before = resident(); memory.tidy(); print(before, resident())"
    before, after = printed(program, memory.TUNABLES)
    assert before - after > 2.5 * BLOCK


@ONLY_ON_GLIBC
def test_tidy_keeps_space_for_small_blocks():
    """Small blocks that are allocated afterwards do not grow the heap."""
    program = """
end = libc.sbrk
end.restype = ctypes.c_void_p
memory.tidy()
before = end(0)
small = [libc.malloc(ctypes.c_size_t(10_000)) for _ in range(1000)]
print(end(0) - before)
"""
    assert printed(program, memory.TUNABLES) == [0]


@ONLY_ON_GLIBC
def test_the_program_restarts_once_with_the_tunables():
    program = "import sys; from cifar_jax.memory import use_huge_pages; use_huge_pages(); import os; "
    program += "print(os.environ['GLIBC_TUNABLES'])"
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    for given, expected in ((None, memory.TUNABLES), ("glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=0")):
        chosen = environment | ({"GLIBC_TUNABLES": given} if given else {})
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, env=chosen, text=True, check=True, stdout=subprocess.PIPE
        )
        assert done.stdout.strip() == expected


def test_other_allocators_are_not_changed(monkeypatch):
    monkeypatch.setattr(memory, "is_glibc", lambda: False)
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: pytest.fail("the C library was called"))
    monkeypatch.setattr(memory.os, "execve", lambda *_: pytest.fail("the program was restarted"))
    monkeypatch.setenv("GLIBC_TUNABLES", memory.TUNABLES)
    memory.use_one_arena()
    memory.tidy()
    monkeypatch.delenv("GLIBC_TUNABLES")
    memory.use_huge_pages()
    assert "GLIBC_TUNABLES" not in os.environ
