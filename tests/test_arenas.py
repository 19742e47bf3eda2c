"""The page's threads share their pools of memory."""

import platform
import subprocess
import sys

import pytest

from blastlens.arenas import share_arenas

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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_threads_share_two_pools_of_memory():
    def pools(first: str) -> int:
        run = subprocess.run([sys.executable, "-c", POOLS.format(first=first)], capture_output=True, text=True)
        return int(run.stdout)

    assert pools("") > 2
    assert pools("from blastlens.arenas import share_arenas; assert share_arenas()") <= 2


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert share_arenas() is False
