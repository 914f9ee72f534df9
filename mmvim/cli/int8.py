"""``mmvim export --int8``: a checkpoint of a config's model in a quarter of its size."""

import argparse
import os

from mmvim import checkpoints
from mmvim.cli.config import check_compiled_ops, load_config
from mmvim.cli.errors import UserError
from mmvim.cli.model import build_model
from mmvim.cli.weights import check_fit, checkpoint_errors, local_checkpoint, read_checkpoint

# Options of exported models, with what they are when nobody gives them.
_OF_ONNX = {
    'result': None,
    'arch': None,
    'fixed_size': None,
    'images': [],
    'part': 'model',
    'opset': None,
    'chunk': None,
    'tolerance': 1e-4,
}


def write_int8(args: argparse.Namespace) -> str:
    """Write the weights of a checkpoint in 8 bits, a scale for each row; every tool reads the file like any other.

    Args:
        args: The command line of ``mmvim export``.

    Returns:
        What was written, a line for the user.

    Raises:
        UserError: If the command is wrong, or the checkpoint does not fit the config.
    """
    if args.checkpoint is None:
        raise UserError('--int8 writes the weights of a checkpoint', 'give it with --checkpoint FILE')
    given = next((name for name, usual in _OF_ONNX.items() if getattr(args, name) != usual), None)
    if given is not None:
        raise UserError(f'--{given.replace("_", "-")} is an option of an exported model', 'leave it out, or --int8')
    if args.out.endswith(('.onnx', '.pt2')):
        raise UserError(f'--out {args.out}: with --int8 a checkpoint is written', 'give a name such as small.pth')
    with checkpoint_errors():
        checkpoints.check_target(args.out)
    cfg = load_config(args.config, args.cfg_options)
    check_compiled_ops(cfg)
    path = local_checkpoint(args.checkpoint)
    if path is None:
        raise UserError(f'--checkpoint {args.checkpoint} cannot be fetched', 'download it, and give the file')
    checkpoint, model = read_checkpoint(path, '--checkpoint'), build_model(cfg)
    check_fit(model, checkpoint, path, '--checkpoint', complete=True)  # which loads it
    with checkpoint_errors():
        packed = checkpoints.pack(model.state_dict())
        if isinstance(checkpoint.get('meta'), dict):  # classes and colours
            packed['meta'] = {'dataset_meta': checkpoint['meta'].get('dataset_meta')}
        checkpoints.save_file(packed, args.out)
    whole = sum(x.numel() * x.element_size() for x in model.state_dict().values())
    return f'{args.out}: {os.path.getsize(args.out) / 1e6:.1f} MB; the weights in float32 are {whole / 1e6:.1f} MB'
