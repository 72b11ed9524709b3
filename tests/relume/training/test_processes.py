"""What a training knows of the processor that it runs on."""

import platform
from pathlib import Path

import pytest

from relume.training.processes import emulates_bfloat16


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the flags are those of x86-64")
def test_bfloat16_is_emulated_where_the_kernel_lists_no_instructions_for_it():
    """PyTorch and the kernel agree on what the processor has."""
    flags = set(Path("/proc/cpuinfo").read_text().split())
    assert emulates_bfloat16() == (not flags & {"avx512_bf16", "amx_bf16"})
