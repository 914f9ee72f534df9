"""The commands of ``mmvim``, a file each with a ``main(argv)``; ``tools/*.py`` call the same.

Named here, and not in their files, so that ``mmvim --help`` imports none of them.

Importing this package, which every tool does before it imports PyTorch, shortens the time for which PyTorch's threads
wait for work without sleeping (see :func:`let_threads_sleep`).
"""

import os

from mmvim.cli.errors import OneLineParser

COMMANDS = {
    'train': 'Train a segmentor or a detector.',
    'test': 'Evaluate a segmentor or a detector.',
    'classify': 'Print the five most probable classes of each picture.',
    'flops': 'Count the parameters and floating-point operations of a model.',
    'samples': 'Draw augmented training pictures of a detector with boxes and masks.',
    'convert': "Convert a published checkpoint to mmvim's names, or back.",
    'models': 'List the configs that come with mmvim, with published numbers.',
    'config': 'Print a config as one file without bases.',
}


# What a user may have set about OpenMP's threads; then nothing is changed.
USERS_OWN = ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT', 'OMP_NUM_THREADS', 'GOMP_CPU_AFFINITY')


def let_threads_sleep() -> bool:
    """Make OpenMP's threads sleep after some microseconds without work, in this process and those it starts.

    By default they wait for milliseconds, spinning. Beside data workers or another process they then keep the cores
    from whoever has work: a step of 35 ms takes 80 to 360 ms on two cores with one or two busy neighbours, and 55 to
    80 ms this way (``tools/analysis_tools/benchmark_threads.py``). It must come before PyTorch is imported.

    Returns:
        True if it was done; False if the user has set a variable of OpenMP's about it.

    Examples:
        >>> import os
        >>> from unittest import mock
        >>> from mmvim.cli.commands import let_threads_sleep
        >>> with mock.patch.dict(os.environ, OMP_WAIT_POLICY='ACTIVE'):
        ...     let_threads_sleep()
        False
    """
    if any(name in os.environ for name in USERS_OWN):
        return False
    os.environ['GOMP_SPINCOUNT'] = '1000'
    return True


let_threads_sleep()


def command_parser(command: str) -> OneLineParser:
    """Return the parser of a command, with no arguments yet.

    Args:
        command: One of ``COMMANDS``.

    Examples:
        >>> from mmvim.cli.commands import command_parser
        >>> command_parser('train').prog
        'mmvim train'
    """
    return OneLineParser(prog=f'mmvim {command}', description=COMMANDS[command])
