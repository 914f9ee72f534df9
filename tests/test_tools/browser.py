"""A headless Chromium, spoken to by its DevTools protocol: open a page, choose files, read what stands there."""

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ('chromium', 'chromium-browser', 'google-chrome')
PATIENCE = 240  # seconds; a busy machine takes its time


def find() -> str | None:
    """The browser on this machine, None if there is none."""
    return next((found for found in map(shutil.which, NAMES) if found), None)


def wait_for(question, what: str) -> Any:
    """Ask until the answer is neither None nor empty."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        answer = question()
        if answer:
            return answer
        time.sleep(0.2)
    raise TimeoutError(f'{what} did not come within {PATIENCE} seconds')


class Page:
    """A tab."""

    def __init__(self, socket) -> None:
        self.socket, self.number = socket, 0

    def call(self, method: str, **params) -> dict:
        self.number += 1
        self.socket.send(json.dumps({'id': self.number, 'method': method, 'params': params}))
        while True:
            message = json.loads(self.socket.recv(timeout=PATIENCE))
            if message.get('id') == self.number:
                assert 'error' not in message, message
                return message['result']

    def ask(self, expression: str) -> Any:
        """The value of an expression of JavaScript."""
        result = self.call('Runtime.evaluate', expression=expression, returnByValue=True, awaitPromise=True)
        return result['result'].get('value')

    def open(self, address: str) -> None:
        self.call('Page.enable')
        self.call('Page.navigate', url=address)

    def choose_file(self, selector: str, path: Path) -> None:
        """Give a file to an element that takes files."""
        root = self.call('DOM.getDocument')['root']['nodeId']
        node = self.call('DOM.querySelector', nodeId=root, selector=selector)['nodeId']
        self.call('DOM.setFileInputFiles', nodeId=node, files=[str(path)])

    def screenshot(self) -> bytes:
        """The page as PNG."""
        return base64.b64decode(self.call('Page.captureScreenshot', format='png')['data'])


@contextmanager
def tab(folder: Path, width: int = 1200, height: int = 760):
    """A tab of a browser that lives as long as the block."""
    from websockets.sync.client import connect

    command = [
        find(), '--headless', '--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-sync',
        '--no-first-run', '--disable-dev-shm-usage', '--hide-scrollbars', f'--window-size={width},{height}',
        f'--user-data-dir={folder}', '--remote-debugging-port=0', 'about:blank',
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        note = folder / 'DevToolsActivePort'
        port = wait_for(lambda: note.is_file() and note.read_text().split('\n')[0], 'the browser')
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

        def target():
            with opener.open(f'http://127.0.0.1:{port}/json/list', timeout=PATIENCE) as answer:
                tabs = [one for one in json.load(answer) if one['type'] == 'page']
            return tabs[0]['webSocketDebuggerUrl'] if tabs else None

        address = wait_for(target, 'a tab')
        with connect(address, max_size=None, proxy=None, open_timeout=PATIENCE) as socket:
            yield Page(socket)
    finally:
        process.terminate()
        try:
            process.wait(timeout=60)
        finally:
            process.kill()
