"""Turn a checkpoint in mmvim's names back: ``mmvim convert --to published``, for a checkout.

    python tools/model_converters/mmvim_to_published.py vim_tiny.pth vim_t.pth

Its options are those of the command.
"""

import sys

try:
    from mmvim.cli.commands.convert import mmvim_to_published as main
    from mmvim.cli.errors import run_tool
except ModuleNotFoundError as error:
    sys.exit(f'error: {error}; install mmvim and what it needs: pip install -e . in its folder')

if __name__ == '__main__':
    run_tool(main)
