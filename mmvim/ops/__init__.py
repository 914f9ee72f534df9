"""Pure functions on tensors: the selective scan, the orders it runs in, and the bidirectional WKV."""

from mmvim.ops.bi_wkv import bi_wkv
from mmvim.ops.scan_paths import ScanPath, available_scan_paths, cross_scan, scan_order, scan_paths, zigzag_scan
from mmvim.ops.selective_scan import backends, selective_scan, selective_scan_paths

__all__ = [
    'ScanPath',
    'available_scan_paths',
    'backends',
    'bi_wkv',
    'cross_scan',
    'scan_order',
    'scan_paths',
    'selective_scan',
    'selective_scan_paths',
    'zigzag_scan',
]
