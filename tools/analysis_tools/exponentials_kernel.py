"""A Triton kernel that computes only exponentials, to see how many a GPU can do a second."""

import triton
import triton.language as tl


@triton.jit
def exponentials(out, repeats, BLOCK: tl.constexpr):
    """Compute ``4 * repeats`` exponentials on every number, in four chains that do not wait for each other."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    a = i.to(tl.float32) * 1e-9
    b, c, d = a + 0.1, a + 0.2, a + 0.3
    for _ in range(0, repeats):
        a, b, c, d = tl.exp2(-a), tl.exp2(-b), tl.exp2(-c), tl.exp2(-d)
    tl.store(out + i, a + b + c + d)
