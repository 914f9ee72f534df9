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
    """The constants had one: at batch 32 and 1024 tokens a path was whole, and most schedulers had a warp or none."""
    vim = next(scan for scan in gpu_model.scans() if scan.name == 'Vim-T 512')
    clocks = {
        batch: gpu_model.cut_before('backward', vim.work(batch), vim.widest('backward', H200), H200).clocks / batch
        for batch in gpu_model.BATCHES
    }
    assert clocks[32] > gpu_model.MOST_RISE * clocks[16]


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


@pytest.mark.parametrize(
    ('arguments', 'words'), [(['--processors', '0'], 'at least 1'), (['--only', 'Resnet'], 'in the name of no scan')]
)
def test_mistakes(arguments, words, capsys):
    with pytest.raises(SystemExit):
        gpu_model.main(arguments)
    assert words in capsys.readouterr().err
