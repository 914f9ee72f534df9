"""Open a local web page that draws predictions on pictures: ``mmvim app``, for a checkout.

    python tools/demo/app.py configs/demo/upernet_vim_demo.py work_dirs/demo/iter_800.pth

Its options are those of the command.
"""

import sys

try:
    from mmvim.cli.commands.app import main
    from mmvim.cli.errors import run_tool
except ModuleNotFoundError as error:
    sys.exit(f'error: {error}; install mmvim and what it needs: pip install -e . in its folder')

if __name__ == '__main__':
    run_tool(main)
