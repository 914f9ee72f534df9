"""The commands of ``mmvim``, a file each with a ``main(argv)``; ``tools/*.py`` call the same.

Named here, and not in their files, so that ``mmvim --help`` imports none of them.

Importing this package, which every tool does before it imports PyTorch, decides how PyTorch's threads wait for work
(see :func:`mmvim.cli.threads.let_threads_sleep`).
"""

from mmvim.cli.errors import OneLineParser
from mmvim.cli.threads import let_threads_sleep

COMMANDS = {
    'train': 'Train a segmentor or a detector.',
    'test': 'Evaluate a segmentor or a detector.',
    'demo': 'Draw predictions on pictures, videos or a webcam, with a legend.',
    'app': 'Open a local web page that draws predictions on pictures.',
    'classify': 'Print the five most probable classes of each picture.',
    'flops': 'Count the parameters and floating-point operations of a model.',
    'visualize': 'Draw scan orders, receptive fields, scans as attention and what speaks for a class.',
    'samples': 'Draw augmented training pictures of a detector with boxes and masks.',
    'export': 'Write a backbone, a segmentor or a classifier as an ONNX file.',
    'predict': 'Run an exported model on pictures, without PyTorch.',
    'convert': "Convert a published checkpoint to mmvim's names, or back.",
    'models': 'List the configs that come with mmvim, with published numbers.',
    'doctor': 'Say what is installed, which backends run here and whether they compute the right thing.',
    'config': 'Print a config as one file without bases.',
}


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
