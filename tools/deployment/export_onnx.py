"""Write a backbone, a segmentor or a classifier as an ONNX file: ``mmvim export``, for a checkout.

    python tools/deployment/export_onnx.py upernet_vim_t_ade20k --checkpoint iter_160000.pth --out vim_t.onnx

Its options are those of the command.
"""

import sys

try:
    from mmvim.cli.commands.export import main
    from mmvim.cli.errors import run_tool
except ModuleNotFoundError as error:
    sys.exit(f'error: {error}; install mmvim and what it needs: pip install -e .[export] in its folder')

if __name__ == '__main__':
    run_tool(main)
