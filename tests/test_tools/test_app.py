"""``mmvim app``: its page in a headless Chromium, and what is said where something is missing."""

import io
import json
import socket
import sys
import urllib.request
from types import SimpleNamespace

import browser
import demo_models as models
import numpy as np
import pytest
import tiny_runs as tiny
from PIL import Image

from mmvim.analysis.overlay import Drawn, Found
from mmvim.cli import UserError, page
from mmvim.cli.commands import app

# Of JavaScript: the line with the time, and the addresses of the pictures on the page.
TIME = '[...document.querySelectorAll("textarea, input")].map(x => x.value).find(x => / s, [0-9]+ classes/.test(x))'
IMAGES = 'JSON.stringify([...document.images].map(x => x.src).filter(x => x.includes("/file=")))'


@pytest.fixture
def segmentor(tmp_path):
    config = tiny.seg_config(tmp_path / 'seg.py', tmp_path)
    return str(config), str(models.save_weights(config, tmp_path / 'seg.pth'))


def free_port():
    with socket.socket() as one:
        one.bind(('127.0.0.1', 0))
        return one.getsockname()[1]


def get(address):
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address, timeout=60) as answer:
        return answer.read()


@pytest.mark.slow
@pytest.mark.skipif(browser.find() is None, reason='no Chromium is installed')
def test_a_picture_is_dropped_and_its_overlay_classes_and_time_are_shown(segmentor, tmp_path, monkeypatch):
    pytest.importorskip('gradio', reason='the extra "demo" is not installed')
    monkeypatch.setenv('no_proxy', '127.0.0.1,localhost')
    served = []

    def launch(built, host, port):
        served.append((built, page.launch(built, host, port, block=False)))

    monkeypatch.setattr(app, 'launch', launch)
    app.main([*segmentor, *segmentor, '--port', str(free_port()), '--opacity', '0.5'])
    ((built, address),) = served
    try:
        with browser.tab(tmp_path / 'profile') as tab:
            tab.open(address)
            choose = 'input[type=file]'
            browser.wait_for(lambda: tab.ask(f'document.querySelectorAll("{choose}").length'), 'the page')
            names = tab.ask('document.body.innerText')
            assert 'What does the model see?' in names
            source = models.picture(tmp_path / 'a.png', 400, 300)
            tab.choose_file(choose, source)
            browser.wait_for(lambda: tab.ask(TIME), 'the prediction')
            shown = browser.wait_for(lambda: json.loads(tab.ask(IMAGES))[1:], 'the overlay')  # behind what was dropped
            overlay = np.asarray(Image.open(io.BytesIO(get(shown[-1]))).convert('RGB'))
            text = tab.ask('document.body.innerText')
            args = app._parse_args([*segmentor, '--opacity', '0.5'])
            expected = app.build_painter(args, *segmentor)(np.asarray(Image.open(source)))

            def patches():
                screenshot = np.asarray(Image.open(io.BytesIO(tab.screenshot())).convert('RGB')).astype(int)
                return (np.abs(screenshot - expected.found[0].colour).sum(-1) < 8).sum() > 30

            browser.wait_for(patches, "the legend's colour, which fades in")
    finally:
        built.close()
    assert np.array_equal(overlay[:300], expected.overlay)  # below stands the legend, with another time
    assert all(found.name in text for found in expected.found[:3])


def test_rows_of_the_table():
    picture = np.zeros((8, 8, 3), np.uint8)
    drawn = Drawn(picture, [Found('dog', (1, 2, 255), count=2, score=0.876), Found('sky', (0, 0, 0), share=0.5)], 0.1)
    assert page.table_of(drawn) == [['dog', '#0102ff', '', '2', '0.88'], ['sky', '#000000', '50.0 %', '', '']]


def test_without_gradio(segmentor, monkeypatch, fails):
    monkeypatch.setitem(sys.modules, 'gradio', None)
    assert 'mmvim app needs gradio; pip install "mmvim[demo]"' in fails(app.main, *segmentor, status=1)


def test_an_address_of_another_machine_is_named(monkeypatch):
    def fail(**options):
        raise OSError('Cannot find empty port in range: 80-80.\nYou can specify another.')

    monkeypatch.setattr(page, '_gradio', lambda: SimpleNamespace(themes=SimpleNamespace(Default=dict)))
    with pytest.raises(UserError, match=r'^--host 1\.2\.3\.4 --port 80 cannot be used \(Cannot find .*; give another'):
        page.launch(SimpleNamespace(launch=fail), '1.2.3.4', 80)


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['a.py'], 'a.py lacks its checkpoint: give CONFIG CHECKPOINT for each model'),
        (['a.py', 'a.pth', '--port', '70000'], '--port 70000 is not a port'),
    ],
)
def test_mistakes_of_the_app(arguments, words, capsys):
    with pytest.raises(SystemExit) as stop:
        app.main(arguments)
    assert stop.value.code == 2 and words in capsys.readouterr().err
