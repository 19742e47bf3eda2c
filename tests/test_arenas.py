"""The page's threads share their pools of memory, and what is free in these goes back to the system."""

import platform
import subprocess
import sys

import pytest

from blastlens.arenas import keep_giving_back, part_large_blocks, share_arenas

# Each pool but the first starts at a multiple of 64 MB, which is how glibc finds the pool of a block.
POOLS = """
import threading
{first}
together = threading.Barrier(8)
def work():
    kept = [bytearray(50_000) for _ in range(100)]
    together.wait()
threads = [threading.Thread(target=work) for _ in range(8)]
for one in threads: one.start()
for one in threads: one.join()
starts = [int(line.split("-")[0], 16) for line in open("/proc/self/maps") if line.split()[-1] == "0"]
print(sum(start % (64 << 20) == 0 for start in starts))
"""


# Every other block goes, so that what is free lies between what is not, and no pool can shrink from its end.
FREED = """
import re, time
from blastlens.arenas import keep_giving_back
def resident():
    return int(re.search(r"VmRSS:\\s*(\\d+)", open("/proc/self/status").read())[1]) / 1024
kept = [bytearray(100_000) for _ in range(1000)]
kept = kept[::2]
before = resident()
assert keep_giving_back(0.05)
until = time.monotonic() + 20
while resident() > before - 30 and time.monotonic() < until:
    time.sleep(0.05)
print(before - resident())
"""
# The first large block that goes raises glibc's limit, so that the others lie in the heap, below one that stays.
LARGE = """
import re
{first}
def resident():
    return int(re.search(r"VmRSS:\\s*(\\d+)", open("/proc/self/status").read())[1]) / 1024
del bytearray(30_000_000)[:]
before = resident()
large = [bytearray(b"x") * 2_000_000 for _ in range(20)]
stays = [bytearray(100_000) for _ in range(3)]
del large
print(resident() - before)
"""
GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")


def printed(script: str, first: str = "") -> float:
    """The number that a script prints in a process of its own, `first` standing where it says so."""
    command = [sys.executable, "-c", script.replace("{first}", first)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@GLIBC
def test_what_is_free_between_other_blocks_goes_back_to_the_system():
    assert printed(FREED) > 30  # of 50 MB that were freed


@GLIBC
def test_large_blocks_leave_nothing_behind():
    assert printed(LARGE) > 30
    assert printed(LARGE, "from blastlens.arenas import part_large_blocks; assert part_large_blocks()") < 10


@GLIBC
def test_threads_share_two_pools_of_memory():
    assert printed(POOLS) > 2
    assert printed(POOLS, "from blastlens.arenas import share_arenas; assert share_arenas()") <= 2


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not (share_arenas() or part_large_blocks() or keep_giving_back())
