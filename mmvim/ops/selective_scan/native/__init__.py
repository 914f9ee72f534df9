"""The scan in C++ for CPUs, compiled when the package is built beside PyTorch or on first use.

A vector holds neighbouring channels, so that the states of several N stay in registers and B and C are scalars that the
whole vector shares. `vec.h` has the vectors and their exp and log, `access.h` reads and writes through strides and
paths, `problem.h` prepares and cuts the work, `forward.h` and `backward.h` compute; `build.py` compiles and loads,
`operators.py` tells PyTorch shapes and derivatives. float64 and other devices go to the 'torch' backend.
"""

from mmvim.ops.selective_scan.native.build import available
from mmvim.ops.selective_scan.native.function import prepare, run_native, serves

__all__ = ['available', 'prepare', 'run_native', 'serves']
