"""The model of the GPU's time at the shapes of vision models: no processor idle, no cliff."""

import pytest
from checkout import ROOT, load_module

gpu_model = load_module(ROOT / 'tools/analysis_tools/gpu_model.py')
H200 = gpu_model.Gpu(132, 90)
EACH = [(scan, kernel) for scan in gpu_model.scans() for kernel in gpu_model.PASSES]
names = pytest.mark.parametrize(('scan', 'kernel'), EACH, ids=lambda x: getattr(x, 'name', x))


@names
def test_no_cliff(scan, kernel):
    """A picture takes hardly longer in a larger batch."""
    assert gpu_model.rise(scan, kernel, H200) <= gpu_model.MOST_RISE


def test_few_rise_at_all():
    """Beyond a tenth only where some schedulers get a warp more than others: five instead of three for 18, not 12."""
    steep = [x for x in EACH if gpu_model.rise(*x, H200) > 1.1]
    assert len(steep) <= len(EACH) / 7


@names
def test_never_slower_than_by_constants(scan, kernel):
    for batch in gpu_model.BATCHES:
        work, widest = scan.work(batch), scan.widest(kernel, H200)
        now = gpu_model.cut_now(kernel, scan, batch, H200)
        assert now.clocks <= gpu_model.cut_before(kernel, work, widest, H200).clocks


def test_a_cliff_would_be_seen():
    """The constants had one: at batch 64 and 1024 tokens a path was whole, and most schedulers had a warp or none."""
    vim = next(scan for scan in gpu_model.scans() if scan.name == 'Vim-T 512')
    clocks = {
        batch: gpu_model.cut_before('backward', vim.work(batch), vim.widest('backward', H200), H200).clocks / batch
        for batch in gpu_model.BATCHES
    }
    assert clocks[64] > gpu_model.MOST_RISE * clocks[32]


def test_rise():
    scan = gpu_model.Scan('made up', 64, 64, 16, 1)
    with pytest.MonkeyPatch.context() as patch:
        times = {1: 10, 2: 16, 4: 36}
        patch.setattr(gpu_model, 'cut_now', lambda kernel, scan, batch, gpu: gpu_model.Cut(64, 1, 64, times[batch]))
        assert gpu_model.rise(scan, 'forward', H200, (1, 2, 4)) == pytest.approx(9 / 8)


def test_the_table(tmp_path, capsys):
    path = tmp_path / 'model.md'
    gpu_model.main(['--only', 'MambaVision-T 224', '--markdown', str(path)])
    lines = path.read_text().splitlines()
    assert capsys.readouterr().out.splitlines() == lines
    assert [line.split(' | ')[:2] for line in lines[2:6]] == [
        [f'| MambaVision-T 224, level {level}', kernel] for level in (3, 4) for kernel in gpu_model.PASSES
    ]
    assert lines[2].count(' us; ') == len(gpu_model.BATCHES) and '→' in lines[2]
    assert lines[-1].startswith('Largest rise')


def made_up(kernel, batch=1, **more):
    """The limits of 64 channels, 128 steps and 16 states on one processor of 1 GHz, 1 TB/s."""
    scan = gpu_model.Scan('made up', 64, 128, 16, 2, **more)
    return gpu_model.limits(kernel, scan, batch, gpu_model.Gpu(1), 1.0, 1.0)


def test_limits():
    """By hand: 2 paths x 64 x 128 numbers; a slot is a quarter of a nanosecond for 32 of them."""
    numbers = 2 * 64 * 128
    forward, backward, gated = made_up('forward'), made_up('backward'), made_up('backward', gate=True)
    assert forward['SFU'] == pytest.approx(8 * 17 * numbers / 32 / 4 / 1e3)
    assert backward['SFU'] == pytest.approx(8 * 18 * numbers / 32 / 4 / 1e3)
    assert gated['SFU'] == pytest.approx(8 * 19 * numbers / 32 / 4 / 1e3)
    # Half a u, delta, the output; states of 16 in 16 steps; B and C for 64 channels.
    assert forward['HBM'] == pytest.approx((1 + 2 + 2 + 4 + 1) * numbers / 1e6)
    assert backward['HBM'] == pytest.approx((1 + 1 + 3 * 2 + 4 + 2) * numbers / 1e6)
    assert gated['HBM'] - backward['HBM'] == pytest.approx(3 * numbers / 1e6)
    assert made_up('forward', 3)['HBM'] == pytest.approx(3 * forward['HBM'])


@names
def test_parts_are_all_of_the_time(scan, kernel):
    for batch in gpu_model.LARGE:
        found = gpu_model.parts(kernel, scan, batch, H200)
        assert sum(found.values()) == pytest.approx(gpu_model.cut_now(kernel, scan, batch, H200).clocks)
        assert min(found.values()) > -1e-6


@names
def test_nothing_is_faster_than_its_limit(scan, kernel):
    for batch in gpu_model.BATCHES:
        least = gpu_model.limits(kernel, scan, batch, H200, gpu_model.H200_CLOCK, gpu_model.H200_BANDWIDTH)
        modelled = gpu_model.cut_now(kernel, scan, batch, H200).clocks / gpu_model.H200_CLOCK / 1e3
        assert modelled > max(least.values())


@pytest.mark.parametrize('batch', [176, 352])
@pytest.mark.parametrize('pixels', [224, 512, 1024, 1248])
def test_a_full_gpu(pixels, batch):
    """Vim-T, eight warps for each processor, as many as find room: backward within three times of the limit."""
    vim = next(scan for scan in gpu_model.scans() if scan.name == f'Vim-T {pixels}')
    least = gpu_model.limits('backward', vim, batch, H200, gpu_model.H200_CLOCK, gpu_model.H200_BANDWIDTH)
    clocks = gpu_model.cut_now('backward', vim, batch, H200).clocks
    assert clocks / gpu_model.H200_CLOCK / 1e3 <= 3 * max(least.values())


def test_the_table_of_limits(capsys):
    gpu_model.main(['--only', 'Vim-S 512', '--limits'])
    lines = [line.strip('| ').split(' | ') for line in capsys.readouterr().out.splitlines()]
    assert [line[:3] for line in lines[2:]] == [
        ['Vim-S 512', kernel, str(batch)] for kernel in gpu_model.PASSES for batch in gpu_model.LARGE
    ]
    for *_, us, limit, times, instructions, lanes, idle, sums, ends in lines[2:]:
        assert limit.endswith(' SFU') and float(us) / float(limit.split()[0]) == pytest.approx(float(times), rel=0.01)
        assert sum(map(float, (instructions, lanes, idle, sums, ends))) == pytest.approx(float(times), abs=0.03)


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['--processors', '0'], 'at least 1'),
        (['--bandwidth', '0'], 'positive'),
        (['--only', 'Resnet'], 'in the name of no scan'),
    ],
)
def test_mistakes(arguments, words, capsys):
    with pytest.raises(SystemExit):
        gpu_model.main(arguments)
    assert words in capsys.readouterr().err
