"""Draw the scan as the attention that it is: ``mmvim visualize attention``, for a checkout.

    python tools/visualize/attention.py Vim:tiny --picture street.png --at 100 150

Its options are those of the command.
"""

import sys

try:
    from mmvim.cli.commands.visualize import main
    from mmvim.cli.errors import run_tool
except ModuleNotFoundError as error:
    sys.exit(f'error: {error}; install mmvim and what it needs: pip install -e . in its folder')

if __name__ == '__main__':
    run_tool(lambda: main(['attention', *sys.argv[1:]]))
