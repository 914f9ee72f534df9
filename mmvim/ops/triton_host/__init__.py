"""What the Triton sides of all ops share: the device, the launch of a kernel, and what a kernel takes of a GPU."""
