"""Draw what a trained model sees on pictures, videos or a webcam: ``mmvim demo``, for a checkout.

    python tools/demo/image_demo.py configs/demo/upernet_vim_demo.py work_dirs/demo/iter_800.pth street.jpg --out drawn

Its options are those of the command.
"""

import sys

try:
    from mmvim.cli.commands.demo import main
    from mmvim.cli.errors import run_tool
except ModuleNotFoundError as error:
    sys.exit(f'error: {error}; install mmvim and what it needs: pip install -e . in its folder')

if __name__ == '__main__':
    run_tool(main)
