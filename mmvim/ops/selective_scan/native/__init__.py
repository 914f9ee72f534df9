"""The scan in C++ for CPUs, compiled on first use: chosen by ``backend='native'`` or ``MMVIM_SCAN_BACKEND=native``.

A vector holds neighbouring channels, so that the states of all N stay in registers and B and C are scalars that the
whole vector shares; `scan.cpp` tells the rest. float64 and other devices go to the 'torch' backend.
"""

from mmvim.ops.selective_scan.native.build import available, library
from mmvim.ops.selective_scan.native.function import run_native

__all__ = ['available', 'library', 'run_native']
