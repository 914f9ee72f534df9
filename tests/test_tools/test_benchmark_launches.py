"""The benchmark of the host's time for a call: it measures calls that compute, in turns, and writes a row for each."""

import pytest
from checkout import ROOT, load_module

benchmark = load_module(ROOT / 'tools/analysis_tools/benchmark_launches.py')
pytest.importorskip('triton')


@pytest.mark.slow
def test_rows_are_written(tmp_path, capsys, monkeypatch):
    from ptx.driver import why_not

    if why_not():
        pytest.skip(why_not())
    path = tmp_path / 'launches.md'
    monkeypatch.setattr(benchmark, 'SCANS', {name: scan for name, scan in benchmark.SCANS.items() if 'one' in name})
    benchmark.main(['--rounds', '1', '--calls', '1', '--before', str(ROOT), '--markdown', str(path)])
    lines = path.read_text().splitlines()
    assert capsys.readouterr().out.splitlines() == lines
    rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in lines[2:]]
    assert [row[:2] for row in rows] == [
        ['MambaVision, one path', call] for call in (*benchmark.CALLS, benchmark.FIRST)
    ]
    assert all(float(row[2]) > 1 and float(row[3]) > 1 and row[4].endswith(' %') for row in rows)
    assert float(rows[0][5]) > 1 and float(rows[2][5]) > float(rows[0][5])


def test_mistakes(tmp_path, capsys):
    for arguments, words in ((['--calls', '0'], 'must be at least 1'), (['--before', str(tmp_path)], 'is no checkout')):
        with pytest.raises(SystemExit):
            benchmark.parse_args(arguments)
        assert words in capsys.readouterr().err
