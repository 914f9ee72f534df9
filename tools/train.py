"""Train a segmentor or a detector: ``mmvim train``, for a checkout, dist_train.sh and ``mim train mmvim``.

    python tools/train.py configs/upernet_vim_t_ade20k.py --work-dir work_dirs/vim_t

Its options are those of the command.
"""

import sys

try:
    from mmvim.cli.commands.train import main
    from mmvim.cli.errors import run_tool
except ModuleNotFoundError as error:
    sys.exit(f'error: {error}; install mmvim and what it needs: pip install -e . in its folder')

if __name__ == '__main__':
    run_tool(main)
