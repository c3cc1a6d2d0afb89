"""What glibc does with the memory of a training step: kept from step to step, and given back where it is not used.

Each in a process of its own, since glibc reads its tunables at the start.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cifar_jax import memory

ONLY_ON_GLIBC = pytest.mark.skipif(
    not memory.is_glibc(),
    reason="measures what glibc's malloc does; for any other, test_with_another_malloc_nothing_is_done runs",
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
    """The integers that `program`, run after the prelude under these tunables, prints."""
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


def page_faults_of_a_second_time(tunables: str, *, one_arena: bool = True) -> int:
    """In a thread, as XLA allocates: of taking, filling and freeing a block that was freed before."""
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
def test_freed_memory_is_taken_again_without_page_faults():
    assert page_faults_of_a_second_time(memory.TUNABLES) < 10
    # The controls: as glibc comes, and with the tunables alone.
    assert page_faults_of_a_second_time("glibc.malloc.hugetlb=0") >= BLOCK // 2**21
    assert page_faults_of_a_second_time(memory.TUNABLES, one_arena=False) >= BLOCK // 2**21


@ONLY_ON_GLIBC
def test_tidy_gives_back_what_is_not_used():
    program = "fill_and_free(3); before = resident(); memory.tidy(); print(before, resident())"
    before, after = printed(program, memory.TUNABLES)
    assert before - after > 2.5 * BLOCK


@ONLY_ON_GLIBC
def test_tidy_leaves_a_gap_for_small_blocks():
    """What comes after it lies in the gap, and not behind the end of the heap, which it would move."""
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
def test_the_program_is_started_anew_once_with_the_tunables():
    program = "import sys; from cifar_jax.memory import use_huge_pages; use_huge_pages(); import os; "
    program += "print(os.environ['GLIBC_TUNABLES'])"
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    for given, wanted in ((None, memory.TUNABLES), ("glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=0")):
        chosen = environment | ({"GLIBC_TUNABLES": given} if given else {})
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, env=chosen, text=True, check=True, stdout=subprocess.PIPE
        )
        assert done.stdout.strip() == wanted


def test_with_another_malloc_nothing_is_done(monkeypatch):
    monkeypatch.setattr(memory, "is_glibc", lambda: False)
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: pytest.fail("the C library was called"))
    monkeypatch.setattr(memory.os, "execv", lambda *_: pytest.fail("the program was started anew"))
    monkeypatch.setenv("GLIBC_TUNABLES", memory.TUNABLES)
    memory.use_one_arena()
    memory.tidy()
    monkeypatch.delenv("GLIBC_TUNABLES")
    memory.use_huge_pages()
    assert "GLIBC_TUNABLES" not in os.environ
