import subprocess
import sys

from deploykit.evaluate.latency.memory import peak_memory_bytes

MIB = 1 << 20


def test_memory_that_was_given_back_counts():
    before = peak_memory_bytes()
    held = bytearray(before + 64 * MIB)
    assert peak_memory_bytes() > len(held)
    size = len(held)
    del held
    assert peak_memory_bytes() > size


def test_the_parents_memory_does_not_count():
    held = bytearray(400 * MIB)
    program = "from deploykit.evaluate.latency.memory import peak_memory_bytes; print(peak_memory_bytes())"
    child = int(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout)
    assert MIB < child < len(held) // 2
