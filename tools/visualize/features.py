"""Draw the principal components of feature maps: ``mmvim visualize features``, for a checkout.

    python tools/visualize/features.py VMamba:tiny --picture street.png

Its options are those of the command.
"""

import sys

try:
    from mmvim.cli.commands.visualize import main
    from mmvim.cli.errors import run_tool
except ModuleNotFoundError as error:
    sys.exit(f'error: {error}; install mmvim and what it needs: pip install -e . in its folder')

if __name__ == '__main__':
    run_tool(lambda: main(['features', *sys.argv[1:]]))
