"""Turn a published checkpoint into a plain one in mmvim's names: ``mmvim convert``, for a checkout.

    python tools/model_converters/published_to_mmvim.py vim_t_midclstok_76p1acc.pth vim_tiny.pth
    python tools/model_converters/published_to_mmvim.py hf://nvidia/MambaVision-T-1K/model.safetensors --check

Its options are those of the command.
"""

import sys

try:
    from mmvim.cli.commands.convert import published_to_mmvim as main
    from mmvim.cli.errors import run_tool
except ModuleNotFoundError as error:
    sys.exit(f'error: {error}; install mmvim and what it needs: pip install -e . in its folder')

if __name__ == '__main__':
    run_tool(main)
