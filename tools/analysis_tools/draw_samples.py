"""Draw what a detector is trained on: ``mmvim samples``, for a checkout.

    python tools/analysis_tools/draw_samples.py configs/vitdet_vim_t_coco.py --out work_dirs/samples

Its options are those of the command.
"""

import sys

try:
    from mmvim.cli.commands.samples import main
    from mmvim.cli.errors import run_tool
except ModuleNotFoundError as error:
    sys.exit(f'error: {error}; install mmvim and what it needs: pip install -e . in its folder')

if __name__ == '__main__':
    run_tool(main)
