"""The C++ library of all ops for CPUs, compiled when the package is built beside PyTorch or on first use.

A vector holds neighbouring channels, so that the states of several N stay in registers and B and C are scalars that the
whole vector shares. ``vec.h`` has the vectors with their exp and log, ``tiles.h`` reads and writes through strides and
paths. The scan: ``scan_problem.h`` prepares and cuts the work, ``scan_forward.h`` and ``scan_backward.h`` compute. The
short convolution: ``conv_silu.h``. The bidirectional WKV: ``bi_wkv.h``, ``bi_wkv_backward.h`` and ``bi_wkv_sums.h``.
``library.cpp`` names the operators, ``build.py`` compiles and loads them.
"""
