"""Who else computes on this machine: a measurement beside others is none."""

import os
import time
from pathlib import Path

SHARE = 0.1  # of a core


class BusyError(RuntimeError):
    """Another process has taken more than a tenth of a core; the text names it."""


def _processes() -> dict[int, tuple[int, str, float]]:
    """Return parent, name and seconds of every process, without those of its children."""
    tick, found = os.sysconf('SC_CLK_TCK'), {}
    for folder in Path('/proc').iterdir():
        if not folder.name.isdigit():
            continue
        try:
            before, _, after = (folder / 'stat').read_text('utf-8', 'replace').rpartition(')')
        except OSError:  # it has ended
            continue
        fields = after.split()
        found[int(folder.name)] = int(fields[1]), before.partition('(')[2], sum(map(int, fields[11:13])) / tick
    return found


def _system() -> float:
    """Return the seconds that all cores have computed: user, nice and system, without what a host took away."""
    fields = Path('/proc/stat').read_text('utf-8').splitlines()[0].split()
    return sum(map(int, fields[1:4])) / os.sysconf('SC_CLK_TCK')


class Watch:
    """A watch over the processes that are not this one's, nor started by it.

    Args:
        window: Seconds between two looks; looks in between do nothing. Defaults to 2.

    Raises:
        OSError: Where there is no ``/proc``.
    """

    def __init__(self, window: float = 2.0) -> None:
        self.window = window
        self._look()

    def _look(self) -> None:
        self.at, self.seconds, self.system = time.monotonic(), _processes(), _system()

    def check(self, last: bool = False) -> None:
        """Look again.

        Args:
            last: Look although the window is not over. Defaults to False.

        Raises:
            BusyError: If one process, or those that have come and gone together, took more than a tenth of a core
                since the last look.
        """
        passed = time.monotonic() - self.at
        if passed < (0.2 if last else self.window):
            return
        before, system = self.seconds, self.system
        self._look()
        own = {os.getpid()}
        for _ in range(8):  # children of children
            own |= {pid for pid, (parent, _, _) in self.seconds.items() if parent in own}
        taken = {pid: value[2] - before[pid][2] if pid in before else value[2] for pid, value in self.seconds.items()}
        allowed = SHARE * passed + 0.02  # two ticks of the clock
        for pid, seconds in sorted(taken.items(), key=lambda item: -item[1]):
            if pid not in own and seconds > allowed:
                name = self.seconds[pid][1]
                raise BusyError(f'process {pid} ({name}) has taken {seconds / passed:.2f} of a core for {passed:.1f} s')
        others = self.system - system - sum(taken.values())
        if others > allowed:
            raise BusyError(f'processes that have ended took {others / passed:.2f} of a core for {passed:.1f} s')
