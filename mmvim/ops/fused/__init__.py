"""What a block does around its scan, in one pass over memory each: norm with residual add, short convolution with SiLU.

Each has a plain-PyTorch function that defines it and runs on every device; on GPUs a Triton kernel takes its place.
"""
