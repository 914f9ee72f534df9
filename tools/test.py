"""Evaluate a segmentor or a detector: ``mmvim test``, for a checkout, dist_test.sh and ``mim test mmvim``.

    python tools/test.py configs/upernet_vim_t_ade20k.py work_dirs/vim_t/iter_160000.pth --show-dir pictures

Its options are those of the command.
"""

import sys

try:
    from mmvim.cli.commands.test import main
    from mmvim.cli.errors import run_tool
except ModuleNotFoundError as error:
    sys.exit(f'error: {error}; install mmvim and what it needs: pip install -e . in its folder')

if __name__ == '__main__':
    run_tool(main)
