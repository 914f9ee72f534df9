"""The comparison of backbones: its rows, its logs, what it says of differences, and one row at toy size."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / 'tools' / 'analysis_tools'
BUDGET = ('--iterations', '2', '--batch', '2', '--crop', '32')


@pytest.fixture
def tools(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    import compare_backbones
    import comparison_logs
    import comparison_rows
    import comparison_table

    return SimpleNamespace(main=compare_backbones, logs=comparison_logs, rows=comparison_rows, table=comparison_table)


@pytest.fixture(scope='session')
def camvid(tmp_path_factory) -> Path:
    """Three pictures a split in SegNet's folders, of two classes and void."""
    root = tmp_path_factory.mktemp('camvid') / 'CamVid'
    for split in ('train', 'val', 'test'):
        for folder in (root / split, root / f'{split}annot'):
            folder.mkdir(parents=True)
        for number in range(3):
            labels = np.full((90, 120), 11, np.uint8)
            labels[: 30 + 20 * number], labels[60:] = 0, 3
            picture = np.where(labels == 0, 220, 60).astype(np.uint8)
            cv2.imwrite(str(root / split / f'{number}.jpg'), np.repeat(picture[..., None], 3, axis=2))
            cv2.imwrite(str(root / f'{split}annot' / f'{number}.png'), labels)
    return root


def parse(tools, monkeypatch, *arguments):
    monkeypatch.setattr(sys, 'argv', ['compare_backbones.py', *map(str, arguments)])
    return tools.main.parse_args()


def write_logs(tools, folder, means, seeds=(0, 1, 2), scatter=0.5, **changes):
    """Logs as trainings leave them; a row's seeds are at its mean and `scatter` above and below."""
    for row, mean in means.items():
        for place, seed in enumerate(seeds):
            log = {
                'row': row,
                'seed': seed,
                **tools.logs.settings(row, tools.rows.Budget()),
                'backbone_parameters': 1_100_000,
                'parameters': 1_700_000,
                'macs': 750_000_000,
                'scan_flops': 7_000_000,
                'mIoU': mean + (place - 1) * scatter,
                'mAcc': 40.0,
                'aAcc': 75.0,
                'machine': {'cpu': 'Example CPU', 'torch': '2.13.0', 'threads': 1},
                **changes,
            }
            tools.logs.write_json(tools.logs.log_path(folder, row, seed), log)


def write_latency(tools, folder):
    entry = {'median': 20.0, 'low': 19.0, 'high': 21.0}
    rows = {row: {'model': tools.logs.settings(row, tools.rows.Budget())['model'], **entry} for row in tools.rows.ROWS}
    machine = {'cpu': 'Example CPU', 'threads': 1, 'scan': 'native'}
    tools.logs.write_json(folder / 'latency.json', {'rows': rows, 'rounds': 20, 'machine': machine})


def test_every_family_has_a_row(tools):
    from mmvim.checkpoints.families import FAMILIES

    rows = tools.rows.ROWS.values()
    assert {row.family for row in rows if row.kind == 'mmvim'} == set(FAMILIES)
    for row in rows:
        if row.kind == 'mmvim':
            assert row.backbone['type'] == f'mmvim.{FAMILIES[row.family].backbone.__name__}'
    assert [row.backbone['type'] for row in rows if row.kind == 'control'] == ['mmvim.VMambaWithoutScan']
    peers = {'ResNet', 'VisionTransformer', 'SwinTransformer'}
    assert {row.backbone['type'] for row in rows if row.kind == 'peer'} == peers


def test_rows_differ_in_the_backbone_alone(tools):
    """Data, schedule, heads and losses are one; backbones, their neck and the widths that follow differ."""
    found = set()
    for name in tools.rows.ROWS:
        cfg = tools.rows.config(name, 1, 'data', tools.rows.Budget(iterations=40, batch=3, crop=96, lr=0.01)).to_dict()
        model = cfg['model']
        for part, key in (('decode_head', 'in_channels'), ('auxiliary_head', 'in_channels')):
            model[part].pop(key)
        model.pop('backbone')
        model.pop('neck', None)
        cfg['optim_wrapper'].pop('constructor')
        cfg['optim_wrapper'].pop('paramwise_cfg', None)
        found.add(json.dumps(cfg, sort_keys=True, default=str))
    assert len(found) == 1
    assert cfg['train_cfg']['max_iters'] == cfg['param_scheduler'][1]['end'] == 40
    assert cfg['param_scheduler'][0]['end'] == cfg['param_scheduler'][1]['begin'] == 4
    assert cfg['train_dataloader']['batch_size'] == 3 and cfg['optim_wrapper']['optimizer']['lr'] == 0.01
    assert cfg['train_dataloader']['dataset']['data_root'] == cfg['test_dataloader']['dataset']['data_root'] == 'data'
    crops = [
        step['crop_size'] for step in cfg['train_dataloader']['dataset']['pipeline'] if step['type'] == 'RandomCrop'
    ]
    assert crops == [(96, 96)] and model['data_preprocessor']['size'] == (96, 96)
    assert cfg['randomness'] == {'seed': 1}


def test_every_backbone_has_the_same_size(tools):
    """Parameters and FLOPs are counted, and a backbone of another size is refused."""
    counts = {}
    for name in tools.rows.ROWS:
        cfg = tools.rows.config(name, 0, '', tools.rows.Budget())
        counts[name] = tools.main.sizes(tools.main.build(cfg), cfg)  # raises beyond 5 %
    for name, row in tools.rows.ROWS.items():
        scans = row.kind == 'mmvim'
        assert (counts[name]['scan_flops'] > 0) == scans, name
        assert counts[name]['macs'] > counts[name]['scan_flops'] + 1e8
    cfg = tools.rows.config('vmamba', 0, '', tools.rows.Budget())
    cfg.model.backbone.arch.dim = 16
    cfg.model.decode_head.in_channels, cfg.model.auxiliary_head.in_channels = [16, 32, 64, 128], 64
    with pytest.raises(SystemExit, match=r'VMamba has \d+ parameters, which is not 1100000 within 5%'):
        tools.main.sizes(tools.main.build(cfg), cfg)


def test_the_control_is_vmamba_with_an_identity_for_its_scan(tools, monkeypatch):
    from mmvim.models import VMamba
    from mmvim.models.layers import selective_scan_2d

    arch = {'depths': (1, 1, 1, 1), 'dim': 8}
    torch.manual_seed(0)
    whole, control = VMamba(arch).eval(), tools.rows.VMambaWithoutScan(arch).eval()
    control.load_state_dict({k: v for k, v in whole.state_dict().items() if k in control.state_dict()})
    lost = {name.rpartition('.op.')[2] for name in whole.state_dict() if name not in control.state_dict()}
    assert lost == {'x_proj.weight', 'dt_projs.weight', 'dt_projs_bias', 'A_logs', 'Ds'}
    picture = torch.randn(1, 3, 64, 96)
    scanned, without = whole(picture), control(picture)
    assert not any(torch.allclose(a, b, atol=1e-3) for a, b in zip(scanned, without, strict=True))
    monkeypatch.setattr(selective_scan_2d, 'selective_scan_paths', lambda u, *_, **__: u)
    for replaced, own in zip(whole(picture), without, strict=True):
        torch.testing.assert_close(replaced, own)


def test_differences_within_the_spread_are_not_claimed(tools, tmp_path):
    means = dict.fromkeys(tools.rows.ROWS, 30.0) | {'vim': 30.9, 'resnet': 36.0, 'vmamba-noscan': 29.0}
    write_logs(tools, tmp_path, means)
    results = tools.table.summarise(tools.logs.read_logs(tmp_path))
    verdict = tools.table.judge(results)
    # a deviation of 0.5 in every row, 13 rows, 26 degrees of freedom
    expected = tools.table.studentized_range(13, 26) * 0.5 / math.sqrt(3)
    assert verdict.deviation == pytest.approx(0.5) and verdict.least == pytest.approx(expected)
    assert 1.4 < verdict.least < 1.6
    assert verdict.above['resnet'] == [row for row in means if row != 'resnet']
    assert verdict.above['vim'] == ['vmamba-noscan'] and verdict.above['vmamba'] == []
    text = tools.table.table(results, None)
    assert 'ResNet-18 is above Vim, ' in text and '- Vim is above VMamba without its scan.' in text
    assert 'is above Vim.' not in text and '- VMamba is above' not in text
    assert 'by +1.0 points, which does not exceed the spread' in text
    assert '| Vim | 1.10 | 1.70 | 0.75 | 0.007 | - | 30.4, 30.9, 31.4 | 30.9 | 0.5 | 75.0 |' in text


def test_no_difference_at_all_is_said_so(tools, tmp_path):
    write_logs(tools, tmp_path, dict.fromkeys(tools.rows.ROWS, 30.0))
    assert '- none.' in tools.table.table(tools.table.summarise(tools.logs.read_logs(tmp_path)), None)


@pytest.mark.parametrize(
    ('groups', 'freedom', 'quantile'),
    [(2, 10, 3.151), (3, 10, 3.877), (5, 20, 4.232), (10, 30, 4.824)],  # tables of the studentized range, 5 %
)
def test_studentized_range(tools, groups, freedom, quantile):
    assert tools.table.studentized_range(groups, freedom) == pytest.approx(quantile, abs=0.02)


@pytest.mark.parametrize(
    ('left_out', 'seeds', 'words'),
    [('swin', (0, 1, 2), '1 of 13 rows have not been run (swin)'), (None, (0,), 'one seed shows no spread')],
)
def test_an_incomplete_run_claims_nothing(tools, tmp_path, left_out, seeds, words):
    means = {row: 30.0 for row in tools.rows.ROWS if row != left_out}
    write_logs(tools, tmp_path, means, seeds)
    text = tools.table.table(tools.table.summarise(tools.logs.read_logs(tmp_path)), None)
    assert f'**Nothing is said of differences yet:** {words}.' in text and ' above ' not in text


def test_unequal_seeds_claim_nothing(tools, tmp_path):
    write_logs(tools, tmp_path, dict.fromkeys(tools.rows.ROWS, 30.0))
    tools.logs.log_path(tmp_path, 'vit', 2).unlink()
    assert 'same seeds' in tools.table.judge(tools.table.summarise(tools.logs.read_logs(tmp_path)))


def test_page_and_chart(tools, tmp_path, monkeypatch, capsys):
    write_logs(tools, tmp_path, dict.fromkeys(tools.rows.ROWS, 30.0))
    write_latency(tools, tmp_path)
    page = tmp_path / 'page.md'
    marks = '<!-- compare_backbones.py: begin -->\n{}<!-- compare_backbones.py: end -->\n'
    page.write_text('before\n' + marks.format('old\n') + 'after\n')
    args = parse(tools, monkeypatch, 'table', '--out', tmp_path, '--page', page, '--chart', tmp_path / 'chart.png')
    text = tools.main.write_table(args)
    assert capsys.readouterr().out == text and page.read_text() == 'before\n' + marks.format(text) + 'after\n'
    assert text.endswith('\n![mIoU against FLOPs and latency](chart.png)\n')
    assert '| 20.0 (19.0 to 21.0) |' in text and "the scan in 'native'" in text
    assert cv2.imread(str(tmp_path / 'chart.png')).shape == (500, 1280, 3)
    page.write_text('no marks\n')
    with pytest.raises(SystemExit, match='does not have the lines'):
        tools.main.write_table(args)


def test_the_page_is_written_from_its_logs(tools):
    page, folder = (ROOT / 'docs/comparison.md').read_text('utf-8'), ROOT / 'docs/comparison'
    if folder.is_dir():
        results = tools.table.summarise(tools.logs.read_logs(folder))
        expected = tools.table.table(results, tools.logs.read_latency(folder), 'comparison.png')
    else:
        expected = ''
    assert tools.table.BLOCK.findall(page) == [expected], 'write it: compare_backbones.py table --page --chart'


def test_logs_of_another_model_or_budget_are_refused(tools, tmp_path):
    write_logs(tools, tmp_path, {'vim': 30.0})
    path = tools.logs.log_path(tmp_path, 'vim', 1)
    log = json.loads(path.read_text())
    budget = tools.rows.Budget(iterations=5)
    with pytest.raises(SystemExit, match='another budget; run that row again with --again'):
        tools.logs.read_log(path, 'vim', 1, budget)
    path.write_text(json.dumps({**log, 'budget': budget.as_dict()}))
    with pytest.raises(SystemExit, match='have different budgets'):
        tools.logs.read_logs(tmp_path)
    log['model']['backbone']['arch']['depth'] = 7
    path.write_text(json.dumps(log))
    with pytest.raises(SystemExit, match='another model'):
        tools.logs.read_logs(tmp_path)
    path.write_text('{}')
    with pytest.raises(SystemExit, match='is not a log'):
        tools.logs.read_logs(tmp_path)
    with pytest.raises(SystemExit, match='has no logs'):
        tools.logs.read_logs(tmp_path / 'empty')


def test_latencies_of_other_models_are_refused(tools, tmp_path):
    assert tools.logs.read_latency(tmp_path) is None
    write_latency(tools, tmp_path)
    content = json.loads((tmp_path / 'latency.json').read_text())
    content['rows']['vit']['model']['backbone']['num_layers'] = 6
    (tmp_path / 'latency.json').write_text(json.dumps(content))
    with pytest.raises(SystemExit, match='of other models than now: vit'):
        tools.logs.read_latency(tmp_path)


def test_what_is_there_is_not_run_again(tools, tmp_path, monkeypatch, camvid):
    """One process a row and seed, behind the prefix; a failure does not stop the others."""
    write_logs(tools, tmp_path, {'vim': 30.0, 'vit': 30.0}, seeds=(0,))
    commands = []

    def start(command, **settings):
        commands.append(command)
        assert settings['env']['OMP_NUM_THREADS'] == '1'
        return subprocess.CompletedProcess(command, returncode=1 if 'resnet' in command else 0)

    options = ('--data-root', camvid, '--out', tmp_path, '--rows', 'vit', 'vim', 'resnet', 'swin', '--seeds', '0', '1')
    args = parse(tools, monkeypatch, 'run', *options, '--prefix', 'nice -n 10')
    with pytest.raises(SystemExit, match=r'failed: resnet, seed 0 \(.*resnet_seed0\.txt\); resnet, seed 1'):
        tools.main.run(args, start)
    done = [(command[command.index('row') + 1], int(command[command.index('row') + 2])) for command in commands]
    assert done == [('resnet', 0), ('swin', 0), ('vim', 1), ('resnet', 1), ('vit', 1), ('swin', 1)]
    assert all(command[:4] == ['nice', '-n', '10', sys.executable] for command in commands)
    args = parse(tools, monkeypatch, 'run', *options, '--iterations', '5')
    with pytest.raises(SystemExit, match='another budget'):
        tools.main.run(args, start)


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['run', '--data-root', 'nowhere'], '--data-root nowhere has no folder train: give SegNet'),
        (['row', 'vim', '0', '--data-root', '{}', '--crop', '50'], '--crop 50 must be a multiple of 32'),
        (['row', 'vim', '0', '--data-root', '{}', '--iterations', '0'], '--iterations 0 must be positive'),
    ],
)
def test_mistakes(tools, monkeypatch, capsys, camvid, arguments, words):
    with pytest.raises(SystemExit) as stop:
        parse(tools, monkeypatch, *(word.format(camvid) for word in arguments))
    assert stop.value.code == 2 and words in capsys.readouterr().err


def test_an_unknown_row(tools):
    with pytest.raises(SystemExit, match=r"there is no row 'vin'; there are vim, localvim"):
        tools.logs.rows_named(['vin'])


@pytest.mark.slow
def test_latency(tools, tmp_path, monkeypatch):
    monkeypatch.setattr(tools.rows, 'ROWS', {name: tools.rows.ROWS[name] for name in ('vmamba', 'resnet')})
    monkeypatch.setattr(tools.logs, 'ROWS', tools.rows.ROWS)
    tools.main.measure_latency(parse(tools, monkeypatch, 'latency', '--out', tmp_path, '--rounds', '2'))
    found = tools.logs.read_latency(tmp_path)
    assert set(found['rows']) == {'vmamba', 'resnet'} and found['machine']['threads'] == 1
    assert all(entry['low'] <= entry['median'] <= entry['high'] for entry in found['rows'].values())


@pytest.mark.full
@pytest.mark.parametrize('row', ['vmamba-noscan', 'vit'])
def test_a_row(tools, tmp_path, monkeypatch, camvid, row):
    """A real training at toy size, in processes of its own; its log makes a table, and is not made again."""
    options = ('--data-root', camvid, '--out', tmp_path, *BUDGET)
    args = parse(tools, monkeypatch, 'run', '--rows', row, '--seeds', '0', '1', *options)
    tools.main.run(args)
    logs = tools.logs.read_logs(tmp_path)
    first, second = (logs[row][seed] for seed in (0, 1))
    assert first['budget'] == {'iterations': 2, 'batch': 2, 'crop': 32, 'lr': 1e-3}
    assert 0 <= first['mIoU'] <= 100 and first['pictures'] == {'train': 3, 'test': 3}
    assert (first['mIoU'], first['aAcc']) != (second['mIoU'], second['aAcc']), 'the seed changes nothing'
    text = tools.table.table(tools.table.summarise(logs), None)
    assert re.search(rf'^\| {tools.rows.ROWS[row].title} \| 1\.\d\d \|', text, re.MULTILINE)
    work = tmp_path / 'runs' / tools.logs.log_path(tmp_path, row, 0).stem
    model = tools.main.build(Config.fromfile(work / 'config.py'))
    trained = torch.load(work / f'iter_{first["budget"]["iterations"]}.pth', weights_only=True)
    model.load_state_dict(trained['state_dict'])
    assert 'optimizer' not in trained
    before = tools.logs.log_path(tmp_path, row, 0).stat().st_mtime_ns
    again = parse(tools, monkeypatch, 'row', row, '0', *options)
    tools.main.train(again)
    assert tools.logs.log_path(tmp_path, row, 0).stat().st_mtime_ns == before
