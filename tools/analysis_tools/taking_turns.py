"""Measurements in processes of their own that take turns, so that whatever else the machine does meets all alike."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


class WorkerEnded(RuntimeError):
    """A worker is gone; the text says why, as far as it told."""


class Worker:
    """A script run as ``SCRIPT --worker JOB``, which answers questions by :func:`serve`.

    Args:
        script (str): Its path.
        job (dict): What it measures, for JSON; its 'threads' is also how many OpenMP may have.
        env (dict): More variables of its environment.
    """

    def __init__(self, script: str, job: dict, env: dict[str, str] | None = None) -> None:
        settings = {'OMP_NUM_THREADS': str(job['threads']), 'PYTHONPATH': str(ROOT), **(env or {})}
        self.process = subprocess.Popen(
            [sys.executable, script, '--worker', json.dumps(job)],
            text=True,
            env={**os.environ, **settings},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def ask(self, question: str) -> Any:
        """The answer.

        Raises:
            WorkerEnded: If there is none; what it printed to standard error has been shown.
        """
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(f'{question}\n')
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ''
        if not answer:
            raise WorkerEnded(f'ended with status {self.process.wait()}')
        return json.loads(answer)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def serve(answer: Callable[[str], Any]) -> None:
    """Answer what standard input asks, line by line, until it ends."""
    for line in sys.stdin:
        print(json.dumps(answer(line.strip())), flush=True)
