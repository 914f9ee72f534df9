"""Out of the framework: ONNX files and PyTorch programs of backbones, segmentors and classifiers, and what runs them.

    from mmvim.deploy import export_onnx, Predictor
    export_onnx(backbone, 'vim.onnx', sizes=((512, 512), (512, 768), (384, 640)))

``mmvim export`` and ``mmvim predict`` are the same on the command line; ``docs/deployment.md`` tells how. Exporting
to ONNX needs the packages of ``pip install "mmvim[export]"``, :class:`Predictor` only numpy, onnxruntime and Pillow.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mmvim.deploy.errors import DeployError, MissingPackageError

if TYPE_CHECKING:
    from mmvim.deploy.compare import Exported
    from mmvim.deploy.export import export_onnx
    from mmvim.deploy.inference import optimize_for_inference
    from mmvim.deploy.low_precision import compute_in_bf16, quantize_dynamic
    from mmvim.deploy.predict import Prediction, Predictor
    from mmvim.deploy.program import export_program, load_program
    from mmvim.deploy.tracing import free_sizes

# Where the others are: importing this package imports neither PyTorch nor ONNX.
_FILES = {
    'Exported': 'compare',
    'Prediction': 'predict',
    'Predictor': 'predict',
    'compute_in_bf16': 'low_precision',
    'export_onnx': 'export',
    'export_program': 'program',
    'free_sizes': 'tracing',
    'load_program': 'program',
    'optimize_for_inference': 'inference',
    'quantize_dynamic': 'low_precision',
}

__all__ = [
    'DeployError',
    'Exported',
    'MissingPackageError',
    'Prediction',
    'Predictor',
    'compute_in_bf16',
    'export_onnx',
    'export_program',
    'free_sizes',
    'load_program',
    'optimize_for_inference',
    'quantize_dynamic',
]


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(f'mmvim.deploy.{_FILES[name]}'), name)
