"""All kernels of the scan; importing this imports Triton."""

from mmvim.ops.selective_scan.triton.backward import scan_backward
from mmvim.ops.selective_scan.triton.forward import scan_forward
from mmvim.ops.selective_scan.triton.merge import collect_projections, merge_paths
from mmvim.ops.selective_scan.triton.segments import chain_segments, segment_ends

__all__ = ['chain_segments', 'collect_projections', 'merge_paths', 'scan_backward', 'scan_forward', 'segment_ends']
