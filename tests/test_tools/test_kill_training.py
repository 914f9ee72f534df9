"""The script that kills trainings, with a few kills; its log is in docs/reliability.md."""

import sys

import pytest
import tiny_runs as tiny


@pytest.mark.full
@pytest.mark.parametrize('options', [(), ('--tool', 'stock', '--keep', '2')])
def test_nothing_is_lost(tmp_path, options):
    script = tiny.TOOLS / 'analysis_tools/kill_training.py'
    result = tiny.run(sys.executable, script, '--kills', '5', '--folder', tmp_path / 'runs', *options, cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr[-2000:]
    assert (
        '| kills | 5 |' in result.stdout
        and '| kills after which something was lost or did not load | 0 |' in result.stdout
    )
    assert len(list((tmp_path / 'runs/work').glob('*.pth'))) <= 3


@pytest.mark.full
def test_it_sees_what_is_lost(tmp_path):
    """The control: MMEngine's own hook removes the last checkpoint before the next one is there."""
    script = tiny.TOOLS / 'analysis_tools/kill_training.py'
    stock = ('--tool', 'stock', '--hook', 'CheckpointHook', '--kills', '15')
    result = tiny.run(sys.executable, script, *stock, cwd=tmp_path)
    assert result.returncode == 1
    assert 'last_checkpoint names' in result.stdout
