"""The names of ``mamba_ssm``, ``causal_conv1d`` and VMamba's compiled modules, on request, served by mmvim's operators.

A checkout of a publisher's own repository then runs without a CUDA build, on a CPU too::

    python -m mmvim.compat.mamba_ssm SCRIPT ...     # run a script of theirs
    import mmvim.compat.mamba_ssm                   # the same from within, before anything imports mamba_ssm

Nothing happens before that is asked for, and an original that is installed keeps its place. ``names.py`` says what is
served and by what; ``install.py`` lets Python find it; ``run.py`` runs scripts. The rest are the functions themselves,
which need PyTorch and ``mmvim.ops`` alone, no package of OpenMMLab.
"""

from mmvim.compat.install import install, remove
from mmvim.compat.names import served

__all__ = ['install', 'remove', 'served']
