"""Measurements in separate processes that take turns, so that other load on the machine affects all of them alike."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


class WorkerEnded(RuntimeError):
    """A worker's process has ended; the text gives its status."""


class Worker:
    """A script run as ``SCRIPT --worker JOB``, which answers questions by :func:`serve`.

    Args:
        script: Its path.
        job: What it measures, to be sent as JSON; its 'threads' is also the number of OpenMP's threads.
        env: More variables of its environment. Defaults to None.
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
        """Ask the worker a question and wait for the answer.

        Args:
            question: One line of text.

        Returns:
            The answer, from JSON.

        Raises:
            WorkerEnded: If the process has ended; what it printed to standard error has been shown.
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
        """End the process."""
        self.process.kill()
        self.process.communicate()


def serve(answer: Callable[[str], Any]) -> None:
    """Answer the questions on standard input, line by line, until it ends."""
    for line in sys.stdin:
        print(json.dumps(answer(line.strip())), flush=True)
