"""Run an exported model on pictures, without PyTorch: ``mmvim predict``, for a checkout.

    python tools/deployment/predict_onnx.py vim_t.onnx street.jpg --out predictions

Its options are those of the command.
"""

import sys

try:
    from mmvim.cli.commands.predict import main
    from mmvim.cli.errors import run_tool
except ModuleNotFoundError as error:
    sys.exit(f'error: {error}; install mmvim and what it needs: pip install --no-deps -e . in its folder')

if __name__ == '__main__':
    run_tool(main)
