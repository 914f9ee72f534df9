"""What the Triton sides of all ops share: where kernels run, how they are launched, what they take of a GPU."""
