"""The kernel that is launched to see whether Triton works."""

import triton
import triton.language as tl


@triton.jit
def add_one(number_ptr):
    """Add 1 to the number at a pointer."""
    tl.store(number_ptr, tl.load(number_ptr) + 1)
