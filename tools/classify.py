"""Classify images with a published classifier: ``mmvim classify``, for a checkout.

    python tools/classify.py cat.jpg dog.jpg --arch tiny --checkpoint vim_t_midclstok_76p1acc.pth

Its options are those of the command.
"""

import sys

try:
    from mmvim.cli.commands.classify import main
    from mmvim.cli.errors import run_tool
except ModuleNotFoundError as error:
    sys.exit(f'error: {error}; install mmvim and what it needs: pip install -e . in its folder')

if __name__ == '__main__':
    run_tool(main)
