"""A server that takes a connection and then says nothing, or stops in the middle of a file."""

import socket
import threading

import pytest

from mmvim import checkpoints
from mmvim.checkpoints.files import sources


@pytest.fixture(params=[b'', b'HTTP/1.0 200 OK\r\nContent-Length: 100000\r\n\r\nPK'], ids=['at once', 'in the middle'])
def address(request):
    """Where such a server listens; it hangs up after 20 s, so that a test without a limit fails, and does not hang."""
    ended, server = threading.Event(), socket.create_server(('127.0.0.1', 0))
    server.settimeout(20)

    def serve():
        connection, _ = server.accept()
        with connection:
            connection.sendall(request.param)
            ended.wait(20)

    threading.Thread(target=serve, daemon=True).start()
    yield f'http://127.0.0.1:{server.getsockname()[1]}/vim.pth'
    ended.set()
    server.close()


def test_a_download_does_not_wait_for_ever(address, tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    monkeypatch.setattr(sources, '_WAIT', 1.0)
    with pytest.raises(checkpoints.CheckpointError, match=r'vim\.pth cannot be fetched \(nothing came for 1 s\); down'):
        checkpoints.fetch(address)
    assert socket.getdefaulttimeout() is None
    assert [path.name for path in tmp_path.rglob('*') if path.is_file()] == []
