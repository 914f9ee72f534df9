"""Draw how far the outputs of a backbone see: ``mmvim visualize field``, for a checkout.

    python tools/visualize/receptive_field.py Vim:tiny --out-indices 0 11 23

Its options are those of the command.
"""

import sys

try:
    from mmvim.cli.commands.visualize import main
    from mmvim.cli.errors import run_tool
except ModuleNotFoundError as error:
    sys.exit(f'error: {error}; install mmvim and what it needs: pip install -e . in its folder')

if __name__ == '__main__':
    run_tool(lambda: main(['field', *sys.argv[1:]]))
