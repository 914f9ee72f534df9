"""Timing on a GPU: the speeds of a copy and of exponentials, and the time of a call with and without Python's share."""

import sys
from collections.abc import Callable


def copy_bandwidth() -> float:
    """Return the bytes that a copy of 1 GiB reads and writes a second."""
    import torch
    from triton.testing import do_bench

    source = torch.empty(1 << 30, dtype=torch.uint8, device='cuda')
    target = torch.empty_like(source)
    return 2 * source.numel() / (1e-3 * do_bench(lambda: target.copy_(source), return_mode='median'))


def exponential_rate() -> float:
    """Return the exponentials a second of all processors together."""
    import torch
    from exponentials_kernel import exponentials
    from triton.testing import do_bench

    programs, block, repeats = 16 * torch.cuda.get_device_properties(0).multi_processor_count, 1024, 2048
    out = torch.empty(programs * block, device='cuda')
    time = do_bench(lambda: exponentials[(programs,)](out, repeats, BLOCK=block, num_warps=4), return_mode='median')
    return programs * block * repeats * 4 / (1e-3 * time)


def graphed(call: Callable) -> Callable:
    """Capture a call in a CUDA graph and return the graph's replay."""
    import torch

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def time_of(call: Callable) -> float | None:
    """Return the milliseconds of a call, or None if it runs out of memory."""
    import torch
    from triton.testing import do_bench

    torch.cuda.empty_cache()
    try:
        return do_bench(call, return_mode='median')
    except torch.OutOfMemoryError:
        return None


def graph_time(call: Callable, what: str) -> float | None:
    """Return the milliseconds of a call without Python's share, or None if it cannot be captured."""
    import torch

    torch.cuda.empty_cache()
    try:
        replay = graphed(call)
    except RuntimeError as error:
        torch.cuda.synchronize()
        print(f'{what} cannot be captured in a CUDA graph: {str(error).splitlines()[0]}', file=sys.stderr)
        return None
    return time_of(replay)
