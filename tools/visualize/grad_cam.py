"""Draw what speaks for a class: ``mmvim visualize gradcam``, for a checkout.

    python tools/visualize/grad_cam.py upernet_vim_t_ade20k --checkpoint iter_160000.pth --picture street.png

Its options are those of the command.
"""

import sys

try:
    from mmvim.cli.commands.visualize import main
    from mmvim.cli.errors import run_tool
except ModuleNotFoundError as error:
    sys.exit(f'error: {error}; install mmvim and what it needs: pip install -e . in its folder')

if __name__ == '__main__':
    run_tool(lambda: main(['gradcam', *sys.argv[1:]]))
