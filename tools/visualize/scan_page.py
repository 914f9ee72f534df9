"""Write scan orders as one HTML page with a slider: ``mmvim visualize page``, for a checkout.

    python tools/visualize/scan_page.py --picture street.png --out orders.html

Its options are those of the command.
"""

import sys

try:
    from mmvim.cli.commands.visualize import main
    from mmvim.cli.errors import run_tool
except ModuleNotFoundError as error:
    sys.exit(f'error: {error}; install mmvim and what it needs: pip install -e . in its folder')

if __name__ == '__main__':
    run_tool(lambda: main(['page', *sys.argv[1:]]))
