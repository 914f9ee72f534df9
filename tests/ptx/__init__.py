"""The compiled Triton kernels, run without a GPU: a test tool.

Triton compiles a kernel to PTX, the assembly language of NVIDIA's virtual machine, before NVIDIA's own assembler makes
machine code of it. Here this PTX runs on a CPU. Between Triton's interpreter, which runs the Python of a kernel, and a GPU
it sees what the compiler has made of it: layouts over threads, specialisation on arguments of 1 and on multiples of 16,
vector loads and their alignment, barriers, shuffles, the packed instructions of newer architectures. And it looks at each
access to memory, as ``check.py`` says: bounds, alignment, races.

- ``parse.py`` reads PTX, ``translate.py`` finds the function and the operands of each instruction.
- ``opcodes.py`` has an expression in C for each opcode, ``machine.h`` what touches memory or crosses lanes; compiled once
  (``machine.py``) they run any kernel. An opcode that is not there is an error.
- ``driver.py`` takes the place of the CUDA driver under Triton's own launches, whose tensors stay on the CPU.
- ``plugin.py`` runs a session of pytest that way, ``sparse.py`` has tensors that are larger than the memory.

What it cannot show:

- what NVIDIA's assembler makes of the PTX, so neither registers, spilling (``test_triton_compile.py``) nor its errors;
- the results of the hardware's approximations (``ex2.approx``, ``div.full``, ``sqrt.approx``, ...), which are computed
  exactly here, and whether their last bits matter;
- what happens in the order in which warps really run and memory really changes: one order is run, all threads in step, and
  the races that another would bring are derived from the barriers. A race through a value that was never read or written
  in that order stays unseen, as do branches not taken;
- an access that misses its tensor and hits another one of the same launch;
- branches that the threads of a program take apart (an error), atomics, tensor cores, asynchronous copies, more than one
  kernel at a time, calls of functions: opcodes that these kernels do not have are errors;
- what a launch takes of a real device, its limits beyond shared memory, and any speed;
- anything about AMD or Intel.
"""
