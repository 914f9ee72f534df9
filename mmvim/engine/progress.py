"""Progress on the console: bars in a terminal, a line now and then in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class ProgressDisplay:
    """A display of how far several tasks are.

    In a terminal every task is a bar with its count, a note and the time left. Elsewhere (a log file, a pipe) a task
    prints a line whenever another part of it is done.

    Args:
        console: Where to show it. Defaults to None, a console on standard output.
        parts: Lines that a task prints where there is no terminal. Defaults to 10.

    Raises:
        ValueError: If ``parts`` is less than 1.

    Examples:
        >>> import io
        >>> from rich.console import Console
        >>> from mmvim.engine.progress import ProgressDisplay
        >>> log = io.StringIO()
        >>> with ProgressDisplay(Console(file=log, force_terminal=False), parts=2) as display:
        ...     task = display.add('Reading', total=4)
        ...     for done in range(1, 5):
        ...         display.update(task, done, note='train')
        >>> print(log.getvalue(), end='')
        Reading: 2/4, train, 0:00 left
        Reading: 4/4, train
    """

    def __init__(self, console: Console | None = None, parts: int = 10) -> None:
        if parts < 1:
            raise ValueError(f'parts must be 1 or greater, got {parts}')
        self.console = console or Console()
        self.parts = parts
        self.bars = Progress(
            TextColumn('{task.description}'),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn('{task.fields[note]}'),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._tasks: dict[int, _Lines] = {}
        self._next = 0

    @property
    def is_terminal(self) -> bool:
        """True if bars are drawn."""
        return self.console.is_terminal

    def __enter__(self) -> ProgressDisplay:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def add(self, description: str, total: int) -> int:
        """Begin a task.

        Args:
            description: Its name on the display.
            total: How many steps it has.

        Returns:
            Its number, by which to update and remove it.
        """
        if self.is_terminal:
            return int(self.bars.add_task(description, total=total, note=''))
        self._next += 1
        self._tasks[self._next] = _Lines(description, total, self.parts, time.monotonic())
        return self._next

    def update(self, task: int, done: int, note: str = '') -> None:
        """Show how far a task is.

        Args:
            task: Its number.
            done: How many of its steps are done.
            note: What to show beside that. Defaults to ''.
        """
        if self.is_terminal:
            self.bars.update(TaskID(task), completed=done, note=note)
            return
        line = self._tasks[task].line(done, note)
        if line:
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def remove(self, task: int) -> None:
        """Take a task off the display.

        Args:
            task: Its number.
        """
        if self.is_terminal:
            self.bars.remove_task(TaskID(task))
        else:
            self._tasks.pop(task)


class _Lines:
    """What a task prints where there is no terminal, and when."""

    def __init__(self, description: str, total: int, parts: int, begin: float) -> None:
        self.description, self.total, self.parts, self.begin = description, max(total, 1), parts, begin
        self.shown = 0
        self.first: int | None = None

    def line(self, done: int, note: str) -> str | None:
        """Return the line to print after ``done`` steps, or None if no further part is done."""
        part = done * self.parts // self.total
        if self.first is None:
            self.first = done - 1  # a resumed run does not begin at 0; the rate counts only what was done here
        if part <= self.shown:
            return None
        self.shown = part
        rate = (time.monotonic() - self.begin) / max(done - self.first, 1)
        left = f', {clock(rate * (self.total - done))} left' if done < self.total else ''
        return f'{self.description}: {done}/{self.total}{", " + note if note else ""}{left}'


def clock(seconds: float) -> str:
    """Return a duration as minutes and seconds, or as hours, minutes and seconds.

    Args:
        seconds: The duration, rounded to whole seconds.

    Examples:
        >>> from mmvim.engine.progress import clock
        >>> clock(75), clock(3725)
        ('1:15', '1:02:05')
    """
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02d}:{rest:02d}' if hours else f'{minutes}:{rest:02d}'


@contextmanager
def progress_display(description: str, total: int, console: Console | None = None) -> Iterator[Callable[[int], None]]:
    """Show one task while the block runs.

    Args:
        description: The task's name.
        total: How many steps it has.
        console: Where to show it. Defaults to None, a console on standard output.

    Yields:
        The function that takes the number of steps done.

    Examples:
        >>> import io
        >>> from rich.console import Console
        >>> from mmvim.engine.progress import progress_display
        >>> log = io.StringIO()
        >>> with progress_display('Reading', 3, Console(file=log, force_terminal=False)) as advance:
        ...     advance(3)
        >>> print(log.getvalue(), end='')
        Reading: 3/3
    """
    with ProgressDisplay(console) as display:
        task = None

        def advance(done: int) -> None:
            nonlocal task
            if task is None:  # nothing is shown for work that turns out to be done already
                task = display.add(description, total)
            display.update(task, done)

        yield advance
