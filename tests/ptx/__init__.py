"""The compiled Triton kernels, run without a GPU: a test tool.

Triton compiles a kernel to PTX, the assembly language of NVIDIA's virtual machine, before NVIDIA's own assembler makes
machine code of it. Here this PTX runs on a CPU. Between Triton's interpreter, which runs a kernel's Python, and a GPU
it sees what the compiler has made of it: layouts over threads, specialisation on arguments of 1 and on multiples of
16, vector loads and their alignment, barriers, shuffles, the packed instructions of newer architectures. And it looks
at each access to memory, as ``check.py`` says: bounds, alignment, races.

- ``parse.py`` reads PTX, ``translate.py`` finds the function and the operands of each instruction.
- ``opcodes.py`` has an expression in C for each opcode, ``machine.h`` what touches memory or crosses lanes. Compiled
  once (``machine.py``) they run any kernel. An opcode that is not there is an error, never a guess.
- ``driver.py`` takes the place of the CUDA driver under Triton's own launches, whose tensors stay on the CPU.
- ``plugin.py`` runs a session of pytest that way, ``sparse.py`` has tensors that are larger than the memory.
- ``definitions.py`` says once more what each opcode computes, in Python, and ``writing.py`` writes small kernels: for
  the tests of all this, beside it. The tests of mmvim's kernels are ``tests/test_ops/test_emulated_*.py``.

What it cannot show:

- what NVIDIA's assembler makes of the PTX, so neither its errors nor registers and spilling, for which there is
  ``test_triton_compile.py``;
- the results of the hardware's approximations (``ex2.approx``, ``div.full``, ``sqrt.approx``, ...), which are computed
  exactly here, and whether their last bits matter;
- the orders in which warps really run and memory really changes. One order is run, all threads in step, and the races
  that another one would bring are derived from the barriers: between accesses that happen in this order, so not in
  branches that are not taken;
- an access that misses its tensor and hits another one of the same launch;
- branches that threads of one program take apart, atomics, tensor cores, asynchronous copies, calls of functions: these
  kernels have none, and they are errors;
- kernels side by side, a real device's limits beyond shared memory, and any speed;
- anything about AMD or Intel.
"""
