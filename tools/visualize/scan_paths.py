"""Draw scan orders over a map, side by side: ``mmvim visualize paths``, for a checkout.

    python tools/visualize/scan_paths.py --size 8 12 --picture street.png

Its options are those of the command.
"""

import sys

try:
    from mmvim.cli.commands.visualize import main
    from mmvim.cli.errors import run_tool
except ModuleNotFoundError as error:
    sys.exit(f'error: {error}; install mmvim and what it needs: pip install -e . in its folder')

if __name__ == '__main__':
    run_tool(lambda: main(['paths', *sys.argv[1:]]))
