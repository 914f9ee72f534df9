#!/usr/bin/env python
"""What does a segmentor lose in fewer bits? mIoU of a checkpoint in float32, bfloat16 and 8-bit integers.

    python tools/analysis_tools/precision_loss.py configs/demo/upernet_vim_demo.py work_dirs/demo/iter_300.pth
    python tools/analysis_tools/precision_loss.py CONFIG CHECKPOINT --cfg-options test_dataloader.dataset.data_root=...

Every way sees the same pictures of the config's test set: float32; the copy for inference
(mmvim.optimize_for_inference); bfloat16 (mmvim test --dtype bf16); linear layers in 8-bit integers
(mmvim.deploy.quantize_dynamic), without and with the projections to the scan's inputs; and 8-bit weights alone (mmvim
export --int8). The table has the mIoU, what is lost of it, and the share of pixels that get another class than in
float32.

It measures mmvim itself, from a checkout.
"""

import argparse
import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

HEADER = ('', 'mIoU', 'lost', 'pixels with another class, %')


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    from mmvim.cli import OptionsAction

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('--cfg-options', nargs='+', action=OptionsAction, metavar='KEY=VALUE')
    parser.add_argument('--pictures', type=int, help='of the test set, the first ones. Defaults to all')
    parser.add_argument('--markdown', type=Path, help='write the table here too')
    parser.add_argument('--json', type=Path, help='write the numbers here')
    args = parser.parse_args(argv)
    if args.pictures is not None and args.pictures < 1:
        parser.error(f'--pictures {args.pictures} must be at least 1')
    return args


def ways() -> dict[str, Callable]:
    """Return what makes a model of each kind out of one in float32, by name."""
    import mmvim
    from mmvim import checkpoints
    from mmvim.checkpoints.files.int8 import unpack
    from mmvim.deploy import compute_in_bf16, quantize_dynamic

    def eight_bit_weights(model):
        made = copy.deepcopy(model)
        made.load_state_dict(unpack(checkpoints.pack(model.state_dict()), 'the model')['state_dict'])
        return made

    return {
        'float32': lambda model: model,
        'float32, for inference': mmvim.optimize_for_inference,
        'bfloat16': lambda model: compute_in_bf16(copy.deepcopy(model)),
        'int8, dynamic': quantize_dynamic,
        'int8, dynamic, all layers': lambda model: quantize_dynamic(model, skip=()),
        'int8, weights alone': eight_bit_weights,
    }


def evaluate(model, cfg, pictures: int | None) -> tuple[float, list]:
    """Return the mIoU of a model on the test set, and the label maps."""
    import torch
    from mmengine.registry import EVALUATOR
    from mmengine.runner import Runner

    loader = Runner.build_dataloader(copy.deepcopy(cfg.test_dataloader), seed=0)
    evaluator = EVALUATOR.build({'type': 'Evaluator', 'metrics': copy.deepcopy(cfg.test_evaluator)})
    evaluator.dataset_meta = loader.dataset.metainfo
    labels = []
    for batch in loader:
        if pictures is not None and len(labels) >= pictures:
            break
        with torch.no_grad():
            samples = model.test_step(batch)
        evaluator.process(data_samples=samples, data_batch=batch)
        labels += [sample.pred_sem_seg.data.cpu() for sample in samples]
    return float(evaluator.evaluate(len(labels))['mIoU']), labels


def main(argv: list[str] | None = None) -> None:
    """Evaluate and write."""
    args = parse_args(argv)
    import torch
    from mmengine.registry import init_default_scope

    from mmvim.cli import build_model, check_fit, load_config, read_checkpoint

    cfg = load_config(args.config, args.cfg_options)
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    model = build_model(cfg)
    check_fit(model, read_checkpoint(args.checkpoint, 'CHECKPOINT'), args.checkpoint, 'CHECKPOINT', complete=True)
    model.eval()
    rows, found, reference = [], {}, None
    for name, make in ways().items():
        score, labels = evaluate(make(model), cfg, args.pictures)
        reference = reference or (score, labels)
        other = [(a != b).float().mean() for a, b in zip(labels, reference[1], strict=True)]
        found[name] = {'mIoU': score, 'other': float(torch.stack(other).mean())}
        lost = f'{reference[0] - score:.2f}' if rows else '-'
        rows.append((name, f'{score:.2f}', lost, f'{100 * found[name]["other"]:.2f}' if lost != '-' else '-'))
    lines = ['| ' + ' | '.join(row) + ' |' for row in (HEADER, *rows)]
    lines.insert(1, '|' + '-|' * len(HEADER))
    print('\n'.join(lines))
    if args.markdown:
        args.markdown.write_text('\n'.join([*lines, '']), 'utf-8')
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + '\n', 'utf-8')


if __name__ == '__main__':
    main()
