"""Serve the names of ``mamba_ssm`` and its kin: by its import, or around a script that it runs.

::

    python -m mmvim.compat.mamba_ssm SCRIPT [ARGUMENT ...]
    python -m mmvim.compat.mamba_ssm -m MODULE [ARGUMENT ...]

In a script of your own: ``import mmvim.compat.mamba_ssm``, before anything imports the originals' names. Processes that
the script starts afresh ('spawn') need that line, too.
"""

import sys

from mmvim.compat.install import install
from mmvim.compat.run import main

if __name__ == '__main__':
    main(sys.argv[1:])
else:
    install()
