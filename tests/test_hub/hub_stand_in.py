"""The hub on this machine: a server that answers as the hub does when files are asked for, and takes what is pushed."""

import hashlib
import http.server
import shutil
import threading
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace


class Hub:
    """What the server has and what it was asked for.

    Attributes:
        folder: ``OWNER/NAME/COMMIT/FILE``.
        commits: The commit of each branch, by (repository, branch).
        private: Repositories that want a token, which is 'secret'.
        requests: Method, path and Range of each request.
        cut: How many answers are cut off after half of their bytes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.commits, self.private = folder, {}, set()
        self.requests, self.cut = [], 0
        self.address = ''

    def commit(self, repo: str, source: Path, branch: str = 'main') -> str:
        """Add a commit of a folder's files to those of the branch."""
        old = self.commits.get((repo, branch)) or self.commits.get((repo, 'main'))
        commit = hashlib.sha1(f'{repo}{branch}{len(self.commits)}{old}{len(self.requests)}'.encode()).hexdigest()
        target = self.folder / repo / commit
        if old:
            shutil.copytree(self.folder / repo / old, target)
        shutil.copytree(source, target, dirs_exist_ok=True)
        self.commits[repo, branch] = commit
        return commit

    def find(self, path: str):
        """The file of an address, with its commit; None if there is none."""
        parts = path.split('?')[0].strip('/').split('/')
        if len(parts) < 5 or parts[2] != 'resolve':
            return None
        repo, revision = '/'.join(parts[:2]), parts[3]
        commit = self.commits.get((repo, revision), revision)
        file = self.folder / repo / commit / '/'.join(parts[4:])
        return SimpleNamespace(repo=repo, commit=commit, file=file) if file.is_file() else None


def _handler(hub: Hub):
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = 'HTTP/1.1'

        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            span = self.headers.get('Range')
            hub.requests.append((self.command, self.path, span))
            found = hub.find(self.path)
            allowed = found is None or found.repo not in hub.private
            if not allowed and self.headers.get('Authorization') != 'Bearer secret':
                return self.refuse(401, 'GatedRepo')
            if found is None:
                return self.refuse(404, 'EntryNotFound' if '/resolve/' in self.path else 'RepoNotFound')
            content = found.file.read_bytes()
            start = int(span.removeprefix('bytes=').rstrip('-')) if span else 0
            self.send_response(206 if span else 200)
            self.send_header('X-Repo-Commit', found.commit)
            self.send_header('ETag', f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header('Accept-Ranges', 'bytes')
            if span:
                self.send_header('Content-Range', f'bytes {start}-{len(content) - 1}/{len(content)}')
            self.send_header('Content-Length', str(len(content) - start))
            self.end_headers()
            if body and hub.cut > 0 and len(content) > 4096:
                hub.cut -= 1
                self.wfile.write(content[start : start + (len(content) - start) // 2])
                self.wfile.flush()
                self.close_connection = True
                return None
            if body:
                self.wfile.write(content[start:])
            return None

        def refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header('X-Error-Code', code)
            self.send_header('Content-Length', '0')
            self.end_headers()

        def log_message(self, *args):
            pass

    return Handler


@contextmanager
def running(folder: Path):
    """A hub that runs while the block does."""
    hub = Hub(folder)
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), _handler(hub))
    hub.address = f'http://127.0.0.1:{server.server_port}'
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def api_of(hub: Hub):
    """A class in the place of huggingface_hub's HfApi, whose commits go to the hub; it refuses what the hub would."""

    class Api:
        def __init__(self, endpoint=None, token=None):
            assert endpoint == hub.address
            self.token = token

        def _check(self):
            if self.token != 'secret':
                raise OSError('401 Client Error: Unauthorized')

        def create_repo(self, repo_id, *, private=None, exist_ok=False):
            self._check()
            if private:
                hub.private.add(repo_id)

        def create_branch(self, repo_id, *, branch, exist_ok=False):
            self._check()
            hub.commits.setdefault((repo_id, branch), hub.commits.get((repo_id, 'main')))

        def upload_folder(self, *, repo_id, folder_path, revision=None, commit_message=None):
            self._check()
            commit = hub.commit(repo_id, Path(folder_path), revision or 'main')
            return SimpleNamespace(commit_url=f'{hub.address}/{repo_id}/commit/{commit}')

    return Api
