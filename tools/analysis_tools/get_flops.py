"""Count the parameters and FLOPs of a model: ``mmvim flops``, for a checkout.

    python tools/analysis_tools/get_flops.py configs/upernet_vim_t_ade20k.py --shape 512 512

Its options are those of the command.
"""

import sys

try:
    from mmvim.cli.commands.flops import main
    from mmvim.cli.errors import run_tool
except ModuleNotFoundError as error:
    sys.exit(f'error: {error}; install mmvim and what it needs: pip install -e . in its folder')

if __name__ == '__main__':
    run_tool(main)
