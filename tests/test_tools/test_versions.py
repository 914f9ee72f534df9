"""One line about packages that mmvim is not tested with."""

import mmengine

from mmvim.cli import config


def test_one_warning_for_another_version(monkeypatch, capsys):
    config.warn_if_untested()
    assert 'mmengine' not in capsys.readouterr().err
    monkeypatch.setattr(mmengine, '__version__', '9.9.9')
    config.warn_if_untested()
    said = capsys.readouterr().err
    assert said.startswith('warning: not tested with mmengine 9.9.9 (tested: mmengine 0.10.12 or 0.10.7;')
    assert said.count('\n') == 1
