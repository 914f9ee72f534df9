#!/usr/bin/env python
"""Memory and time of segmenting large pictures, tile by tile and in MMSegmentation's own ways, against their side.

    python tools/analysis_tools/benchmark_tiles.py --sides 1000 2000 4000 --markdown table.md

A segmentor with random weights predicts a picture of noise that lies in a .npy file. Five ways: 'tiles' is
``mmvim.analysis.tiled.predict_tiled``, from file to file; 'test' is ``mmvim test`` with mIoU, 'inferencer'
MMSegmentation's, both of a config with ``mmvim.TiledSegmentor``; 'slide' and 'whole' are ``test_cfg.mode`` of
MMSegmentation, with the same tiles and overlap, on the picture in memory. Each measurement is a process of its own. The
memory is the largest amount of anonymous memory (what no file backs) while it predicts, beyond what the process had
with model and libraries before; it is looked up every 10 ms. One that passes --limit is stopped there.

``--cfg-options`` makes the model quicker: what is measured are the pictures, not the model.

It measures mmvim itself, from a checkout, on a CPU under Linux.
"""

import argparse
import contextlib
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from taking_turns import ROOT

sys.path.insert(0, str(ROOT))

WAYS = ('tiles', 'test', 'inferencer', 'slide', 'whole')
HEADER = ['side', 'way', 'peak memory, MB', 'seconds', 'megapixels/s']
STOPPED = 3  # exit status


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--sides', type=int, nargs='+', default=[1000, 2000, 4000, 10000], help='of square pictures')
    parser.add_argument(
        '--ways', nargs='+', choices=WAYS, default=['tiles', 'slide', 'whole'], help='Defaults to %(default)s'
    )
    parser.add_argument('--config', default='upernet_vim_demo', help='of a segmentor. Defaults to %(default)s')
    parser.add_argument('--cfg-options', nargs='+', metavar='KEY=VALUE', default=[], help='override settings of it')
    parser.add_argument('--classes', type=int, default=150, help='of the decode head. Defaults to 150')
    parser.add_argument('--tile', type=int, default=512, help='Defaults to 512')
    parser.add_argument('--overlap', type=int, default=128, help='Defaults to 128')
    parser.add_argument('--memory-mb', type=int, default=512, help='for the sums of tiles. Defaults to 512')
    parser.add_argument('--limit', type=int, default=6000, metavar='MB', help='stop at so much. Defaults to 6000')
    parser.add_argument('--markdown', type=Path, help='write the table here too')
    parser.add_argument('--one', nargs=2, metavar=('WAY', 'FILE'), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if min(args.sides) < 16 or args.classes < 2:
        parser.error('--sides must be at least 16 and --classes at least 2')
    return args


def anonymous() -> int:
    """Return the memory of this process that no file backs, in bytes."""
    with open('/proc/self/status', encoding='ascii') as stream:
        return next(int(line.split()[1]) * 1024 for line in stream if line.startswith('RssAnon'))


class Peak:
    """The largest amount of anonymous memory within a block; the process ends where it passes a limit.

    Args:
        limit: In bytes, beyond what there is at the beginning.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.before, self.most = limit, anonymous(), 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            self.most = max(self.most, anonymous() - self.before)
            if self.most > self.limit:
                os._exit(STOPPED)

    def __enter__(self) -> 'Peak':
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._done.set()
        self._thread.join()
        self.most = max(self.most, anonymous() - self.before)


def settings(args: argparse.Namespace) -> Any:
    """Return the config of the segmentor, with the options of the command line."""
    from mmengine.config import DictAction

    from mmvim.cli import load_config

    given = dict(option.split('=', 1) for option in args.cfg_options)
    options = {key: DictAction._parse_iterable(value) for key, value in given.items()}
    return load_config(args.config, {**options, 'model.decode_head.num_classes': args.classes})


def measure(way: str, file: str, args: argparse.Namespace) -> dict[str, float]:
    """Predict one picture in this process; return the bytes and the seconds."""
    if way in ('test', 'inferencer'):
        return measure_config(way, file, args)
    import numpy as np
    import torch

    from mmvim.analysis.tiled import predict_tiled
    from mmvim.cli import build_model

    cfg = settings(args)
    size = (args.tile, args.tile)
    step = (args.tile - args.overlap,) * 2
    cfg.model.test_cfg = {'mode': 'slide', 'crop_size': size, 'stride': step} if way == 'slide' else {'mode': 'whole'}
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    small = np.zeros((args.tile, args.tile, 3), np.uint8)
    predict_tiled(model, small, args.tile, args.overlap)  # what is compiled or read on first use
    start = time.perf_counter()
    with Peak(args.limit * 10**6) as peak, torch.no_grad():
        if way == 'tiles':
            out = Path(file).with_name('labels.npy')
            predict_tiled(model, file, args.tile, args.overlap, out, args.memory_mb)
        else:
            from mmseg.structures import SegDataSample

            picture = torch.from_numpy(np.load(file).transpose(2, 0, 1).copy())
            shape = tuple(picture.shape[1:])
            sample = SegDataSample(metainfo={'ori_shape': shape, 'img_shape': shape})
            model.test_step({'inputs': [picture], 'data_samples': [sample]})
    return {'bytes': peak.most, 'seconds': time.perf_counter() - start}


def write_run(folder: Path, picture: Path, args: argparse.Namespace) -> tuple[str, str]:
    """Write a data set of one picture and its labels, a config of tiles and a checkpoint; return the paths of both."""
    import cv2
    import numpy as np
    import torch

    from mmvim.cli import build_model

    cfg = settings(args)
    torch.manual_seed(0)
    model = build_model(cfg)
    for name in ('pictures', 'labels'):
        (folder / name).mkdir(parents=True)
    (folder / 'pictures' / 'a.npy').symlink_to(picture.resolve())
    labels = np.zeros(np.load(picture, mmap_mode='r').shape[:2], np.uint8)
    cv2.imwrite(str(folder / 'labels' / 'a.png'), labels)
    classes = tuple(f'class {number}' for number in range(args.classes))
    torch.save({'state_dict': model.state_dict(), 'meta': {'dataset_meta': {'classes': classes}}}, folder / 'a.pth')
    cfg.model = {
        'type': 'mmvim.TiledSegmentor',
        'module': cfg.model,
        'tile': args.tile,
        'overlap': args.overlap,
        'memory_mb': args.memory_mb,
    }
    dataset = {
        'type': 'BaseSegDataset',
        'data_root': str(folder),
        'data_prefix': {'img_path': 'pictures', 'seg_map_path': 'labels'},
        'img_suffix': '.npy',
        'metainfo': {'classes': classes},
        'pipeline': [
            {'type': 'mmvim.LoadImageBands'},
            {'type': 'LoadAnnotations', 'imdecode_backend': 'cv2'},  # Pillow's limit is 179 million pixels
            {'type': 'PackSegInputs'},
        ],
    }
    cfg.test_dataloader = {'batch_size': 1, 'num_workers': 0, 'dataset': dataset}
    cfg.visualizer.name = folder.name  # MMEngine keeps visualizers, and where they write, by their names
    cfg.dump(folder / 'tiles.py')
    return str(folder / 'tiles.py'), str(folder / 'a.pth')


def measure_config(way: str, file: str, args: argparse.Namespace) -> dict[str, float]:
    """Predict one picture by ``mmvim test`` or the inferencer; return the bytes and the seconds."""
    import numpy as np
    from mmengine.registry import init_default_scope
    from mmseg.apis import MMSegInferencer

    from mmvim.cli.commands import test

    picture, folder = Path(file), Path(file).with_name(way)
    folder.mkdir()
    np.save(folder / 'small.npy', np.zeros((args.tile, args.tile, 3), np.uint8))
    for given in (folder / 'small.npy', picture):  # first, what is compiled or read on first use
        config, checkpoint = write_run(folder / f'run_{given.stem}', given, args)
        start = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()), Peak(args.limit * 10**6) as peak:
            if way == 'test':
                test.main([config, checkpoint, '--work-dir', str(folder / f'work_{given.stem}')])
            else:
                init_default_scope('mmseg')
                inferencer = MMSegInferencer(config_for_inferencer(config), checkpoint, device='cpu')
                inferencer.show_progress = False
                inferencer(np.load(given), return_datasamples=True)
                del inferencer
    return {'bytes': peak.most, 'seconds': time.perf_counter() - start}


def config_for_inferencer(config: str) -> Any:
    """Return a config whose pipeline loads as MMSegmentation's inferencers want it, which take arrays of any bands."""
    from mmengine.config import Config

    cfg = Config.fromfile(config)
    cfg.test_dataloader.dataset.pipeline[0] = {'type': 'LoadImageFromFile'}
    return cfg


def row(side: int, way: str, file: Path, args: argparse.Namespace) -> list[str]:
    """Measure in a process of its own, and return a line of the table."""
    kept = ('config', 'classes', 'tile', 'overlap', 'memory_mb', 'limit')
    options = [text for name in kept for text in (f'--{name.replace("_", "-")}', str(getattr(args, name)))]
    if args.cfg_options:
        options += ['--cfg-options', *args.cfg_options]
    done = subprocess.run(
        [sys.executable, __file__, *options, '--one', way, str(file)], capture_output=True, text=True, check=False
    )
    if done.returncode == STOPPED:
        return [str(side), way, f'more than {args.limit}', '-', '-']
    if done.returncode:
        raise SystemExit(f'{way} at {side}: {done.stderr[-2000:]}')
    found = json.loads(done.stdout.splitlines()[-1])
    rate = side * side / 1e6 / found['seconds']
    return [str(side), way, f'{found["bytes"] / 1e6:.0f}', f'{found["seconds"]:.1f}', f'{rate:.2f}']


def make_picture(file: Path, side: int) -> None:
    """Write noise, a few rows at a time."""
    import numpy as np

    picture = np.lib.format.open_memmap(file, mode='w+', dtype=np.uint8, shape=(side, side, 3))
    generator = np.random.default_rng(0)
    for begin in range(0, side, 256):
        part = picture[begin : begin + 256]
        part[:] = generator.integers(0, 256, part.shape, np.uint8)


def main() -> None:
    """Measure and write."""
    args = parse_args()
    if args.one:
        way, given = args.one
        print(json.dumps(measure(way, given, args)))
        return
    import torch

    about = (
        f'{torch.get_num_threads()} thread(s) of a CPU, float32, Python {platform.python_version()}, PyTorch '
        f'{torch.__version__}; python tools/analysis_tools/benchmark_tiles.py {" ".join(sys.argv[1:])}'.strip()
    )
    lines = []
    for side in args.sides:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / 'picture.npy'
            make_picture(file, side)
            for way in args.ways:
                lines.append(row(side, way, file, args))
                print(' | '.join(lines[-1]), flush=True)
    table = [f'`{about}`', '', '| ' + ' | '.join(HEADER) + ' |', '|' + '-|' * len(HEADER)]
    table += ['| ' + ' | '.join(line) + ' |' for line in lines]
    print('\n'.join(table))
    if args.markdown:
        args.markdown.write_text('\n'.join([*table, '']))


if __name__ == '__main__':
    main()
