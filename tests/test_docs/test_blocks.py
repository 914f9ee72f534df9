"""The commands of the newcomer's pages, run as they stand, on scenes of the demo and weights that nobody trained.

Where a command would train for hours, a word of it is changed by ``SHORTER``; what cannot be run here has its reason in
``NOT_RUN``. The tutorial has a test of its own.
"""

import os
import re
import shlex
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from pages import ROOT, code, pages
from PIL import Image

from mmvim import cli
from mmvim.analysis.media import VideoFile

RUN = (
    'README.md',
    'docs/checkpoints.md',
    'docs/costs.md',
    'docs/data.md',
    'docs/deployment.md',
    'docs/large_pictures.md',
    'docs/many_bands.md',
    'docs/predictions.md',
    'docs/training.md',
    'docs/visualize.md',
)
OTHER_PAGES = {  # and why their commands are not run here
    r'docs/tutorial\.md': 'test_tutorial.py runs it',
    r'docs/(benchmarks|cpu|gpu_model|precision)\.md': 'hours alone on a machine; test_tools runs each on little',
    r'docs/(comparison|real_pictures|detection)\.md': 'hours, and CamVid, ADE20K or COCO',
    r'docs/dropin\.md': "a publisher's own repository",
    r'docs/mim\.md': 'mim, which fetches packages; test_mim.py',
    r'docs/own_repository\.md': 'pip',
    r'configs/.*README\.md': "publishers' files, or the commands of README.md and docs/ with another name",
    r'CONTRIBUTING\.md': 'runs the tests',
}
NOT_RUN = {
    r'make (demo|test) ': 'sets up an environment and takes minutes',
    r'source \.venv': 'the environment of the reader',
    r'pip install ': 'the network',
    r'mmvim app ': 'serves until it is stopped; test_app.py operates it in a browser',
    r'mmvim train upernet_vim_t_ade20k --amp +#': 'float16 needs a GPU',
    r'mmvim (train|samples) vitdet_vim_t_coco': 'COCO',
    r'mmvim test upernet_mambavision_t_ade20k mamba_vision_160k': "a publisher's file; test_published.py",
    r'--cfg-options ': 'options alone, to be added to a command',
}
SHORTER = {
    'demo/make_scenes.py ': 'demo/make_scenes.py --train 4 --val 2 ',
    'mmvim train upernet_vim_s_ade20k ': 'mmvim train upernet_vim_s_ade20k --check ',
    '--amp bf16 ': '--amp bf16 --check ',
    'mmvim train upernet_vim_bands_demo': 'mmvim train upernet_vim_bands_demo --cfg-options train_cfg.max_iters=2 '
    'train_cfg.val_interval=2 default_hooks.checkpoint.interval=2',
    'upernet_vim_bands_demo/iter_800.pth': 'upernet_vim_bands_demo/iter_2.pth',
    'data_root=DIR': 'data_root=data/ade/ADEChallengeData2016',
    'export CONFIG --checkpoint FILE': 'export upernet_vim_demo --checkpoint work_dirs/demo/iter_800.pth',
    '--iters 20': '--iters 2 --warmup 1 --threads 1',
    'precision_loss.py ': 'precision_loss.py --pictures 2 ',
    '--sides 1000 2000 4000 10000': '--sides 600',
    'webcam:0 ': '',  # there is none
    '--frames 200': '--frames 3',
}
# What a reader has by then: weights of a config, by page. The first are those of `make demo`.
WEIGHTS = {
    'README.md': {
        'work_dirs/demo/iter_800.pth': 'upernet_vim_demo',
        'work_dirs/upernet_vim_s_ade20k/iter_60000.pth': 'upernet_vim_s_ade20k',
    },
    'docs/data.md': {'work_dirs/upernet_vim_s_ade20k/iter_60000.pth': 'upernet_vim_s_ade20k'},
    'docs/deployment.md': {'work_dirs/demo/iter_800.pth': 'upernet_vim_demo', 'iter_60000.pth': 'upernet_vim_t_ade20k'},
    'docs/large_pictures.md': {'iter_60000.pth': 'upernet_vim_s_ade20k'},
    'docs/predictions.md': {'work_dirs/demo/iter_800.pth': 'upernet_vim_demo'},
}
COMPARED = 'work_dirs/comparison/runs/vim_seed0'
NEEDS = {'mmvim export': 'onnxscript', 'mmvim predict': 'onnxruntime'}


def commands(page):
    """The command lines of a page, those that go on joined."""
    blocks = code((ROOT / page).read_text('utf-8'), 'shell')
    lines = [line.strip() for block in blocks for line in re.sub(r'\\\n\s*', ' ', block).splitlines()]
    return [line for line in lines if line and not line.startswith('#')]


def why_not(line):
    """Why a command is not run, None if it is."""
    return next((reason for start, reason in NOT_RUN.items() if re.match(start, line + ' ')), None)


def shorter(line):
    """A command as it is run."""
    for old, new in SHORTER.items():
        line = (line + ' ').replace(old, new).rstrip()
    return line


def written(line):
    """What a command says that it writes."""
    words = shlex.split(line, comments=True)
    return [after for word, after in pairwise(words) if word in ('--out', '--show-dir', '>')]


def save(path, model):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({'state_dict': model.state_dict()}, path)


def build(config):
    torch.manual_seed(0)
    return cli.build_model(cli.load_config(str(config)))


def comparisons_vim(folder):
    """A Vim of eight blocks, all of whose pixels are of class 8."""
    (folder / COMPARED).mkdir(parents=True)
    config = folder / COMPARED / 'config.py'
    config.write_text(
        "_base_ = __import__('mmvim').bases('mmvim::demo/upernet_vim_demo.py')\n"
        'model = dict(backbone=dict(arch=dict(embed_dims=32, depth=8, d_state=8), out_indices=(1, 3, 5, 7)),\n'
        '    neck=dict(embed_dim=32), decode_head=dict(in_channels=[32] * 4))\n'
    )
    model = build(config)
    model.decode_head.conv_seg.bias.data[8] = 9.0
    save(folder / COMPARED / 'iter_600.pth', model)


def classifier(path):
    """A Vim's file as its publishers write it."""
    from mmvim.models import Vim

    weights = Vim('tiny', cls_token='middle', final_norm=True).state_dict()
    weights.pop('pos_embed_grid')
    weights.update({'head.weight': torch.randn(1000, 192), 'head.bias': torch.zeros(1000)})
    torch.save({'model': weights}, path)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Scenes of the demo, where a reader's ADE20K would stand as well."""
    folder = tmp_path_factory.mktemp('data')
    script = [sys.executable, str(ROOT / 'demo/make_scenes.py'), '--out', str(folder / 'demo'), '--train', '4']
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    subprocess.run([*script, '--val', '2'], env=environment, check=True, timeout=300)
    (folder / 'ade').mkdir()
    (folder / 'ade/ADEChallengeData2016').symlink_to(folder / 'demo/ADEChallengeData2016')
    return folder


def prepare(folder, data, page):
    """A folder like a checkout, with what the page speaks of."""
    for name in ('configs', 'demo', 'tools'):
        (folder / name).symlink_to(ROOT / name)
    (folder / 'data').symlink_to(data)
    scenes = sorted((data / 'demo/ADEChallengeData2016/images/validation').glob('*.jpg'))
    pictures = [np.asarray(Image.open(scene).convert('RGB')) for scene in scenes]
    (folder / 'holidays').mkdir()
    for name, picture in zip(('street.jpg', 'cat.jpg', 'holidays/a.jpg'), (*pictures, pictures[0]), strict=True):
        Image.fromarray(picture).save(folder / name)
    video = VideoFile(folder / 'drive.mp4', rate=5)
    for picture in pictures * 3:
        video.add(picture)
    video.close()
    for path, config in WEIGHTS.get(page, {}).items():
        save(folder / path, build(config))
    text = '\n'.join(commands(page))
    if 'FILE' in text:
        classifier(folder / 'FILE')
    if COMPARED in text:
        comparisons_vim(folder)


@pytest.mark.full
@pytest.mark.parametrize('page', RUN)
def test_commands_run_as_they_stand(page, data, tmp_path):
    prepare(tmp_path, data, page)
    programs = f'python() {{ "{sys.executable}" "$@"; }}; mmvim() {{ "{sys.executable}" -m mmvim "$@"; }}; '
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    for line in commands(page):
        if why_not(line):
            continue
        if value := re.fullmatch(r'([A-Z]+)=(\S+)', line):
            environment[value[1]] = value[2]
            continue
        for start, package in NEEDS.items():
            if line.startswith(start):
                pytest.importorskip(package, reason=f'{start} needs it')
        done = subprocess.run(
            ['bash', '-c', programs + shorter(line)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, f'{shorter(line)}\n{done.stdout[-1500:]}\n{done.stderr[-2500:]}'
        for name in written(line):
            path = tmp_path / name
            assert path.exists() and (path.is_file() or any(path.iterdir())), f'{line} wrote no {name}'


def test_every_page_with_commands_is_run_or_has_a_reason():
    for page in pages():
        name = page.relative_to(ROOT).as_posix()
        if name not in RUN and code(page.read_text('utf-8'), 'shell'):
            assert any(re.fullmatch(pattern, name) for pattern in OTHER_PAGES), f'{name} is not run'


def test_nothing_in_the_tables_is_superfluous():
    lines = [line for page in RUN for line in commands(page)]
    for start in NOT_RUN:
        assert any(re.match(start, line + ' ') for line in lines), start
    for word in SHORTER:
        assert any(word in line + ' ' for line in lines if not why_not(line)), word
    assert sum(why_not(line) is None for line in lines) > 40
    for page, files in WEIGHTS.items():
        assert all(path in '\n'.join(map(shorter, commands(page))) for path in files), page
