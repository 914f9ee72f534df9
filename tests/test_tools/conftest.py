"""The tools as modules, and tiny data sets and configs to run them on."""

from pathlib import Path

import pytest
import tiny_runs as tiny


@pytest.fixture(autouse=True)
def _quick(quick_runners):
    """All of these run small models."""


@pytest.fixture(scope='session')
def ade(tmp_path_factory) -> Path:
    return tiny.make_ade(tmp_path_factory.mktemp('ade') / 'ade')


@pytest.fixture(scope='session')
def coco(tmp_path_factory) -> Path:
    pytest.importorskip('mmdet')
    pytest.importorskip('mmcv._ext', reason='mmcv was built without its ops, which mmdet needs')
    return tiny.make_coco(tmp_path_factory.mktemp('coco') / 'coco')


@pytest.fixture
def seg(tmp_path, ade) -> Path:
    # Runs of one process must differ in name: MMEngine keeps loggers and message hubs by it.
    return tiny.seg_config(tmp_path / f'seg_{tmp_path.name}.py', ade)


@pytest.fixture
def det(tmp_path, coco) -> Path:
    return tiny.det_config(tmp_path / f'det_{tmp_path.name}.py', coco)


@pytest.fixture
def fails(capsys, monkeypatch):
    """Call ``main(argv)`` as the tool does; check that it fails with one line, and return the line."""
    from mmvim import cli

    monkeypatch.delenv('MMVIM_DEBUG', raising=False)

    def call(main, *argv, status: int) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            cli.run_tool(lambda: main([str(a) for a in argv]))
        lines = [line for line in capsys.readouterr().err.splitlines() if 'error' in line.lower()]
        assert exit_.value.code == status, lines
        assert len(lines) == 1 and lines[0].startswith('error: '), lines
        assert '; ' in lines[0], f'no remedy: {lines[0]}'
        return lines[0]

    return call
