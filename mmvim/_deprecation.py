"""Arguments that have got another name: the old one works for two minor versions, with one warning.

Standard library only, so that every floor of the package can use it.
"""

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, TypeVar

P = ParamSpec('P')
R = TypeVar('R')
KEPT_FOR = 2  # minor versions


class Renamed(NamedTuple):
    """An argument's old name, for as long as it works."""

    function: str
    old: str
    new: str
    since: str
    gone: str


RENAMED: list[Renamed] = []  # every one that a module which has been imported still takes
_warned: set[Renamed] = set()


def renamed_arguments(since: str, **renamed: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function, or the ``__init__`` of a class, take arguments by their old names, too.

    The first use of each old name in a process gives one FutureWarning, which Python shows by default, also where a
    config names the argument. ``tests/test_deprecation.py`` fails once the two minor versions are over.

    Args:
        since: The version that brings the new names, as '0.2'.
        **renamed: From an old name to the new one.

    Returns:
        A decorator.

    Raises:
        ValueError: If ``since`` is no version, a new name is not an argument, or an old one still is.

    Examples:
        >>> import warnings
        >>> from mmvim._deprecation import renamed_arguments
        >>> @renamed_arguments('0.2', rate='drop_rate')
        ... def drop(x, drop_rate=0.5):
        ...     return x * drop_rate
        >>> with warnings.catch_warnings(record=True) as seen:
        ...     warnings.simplefilter('always')
        ...     drop(4, rate=0.25), drop(8, rate=0.25)
        (1.0, 2.0)
        >>> print(*(warning.message for warning in seen))
        drop: rate is called drop_rate since mmvim 0.2; the old name works until 0.4
    """
    gone = _last(since)

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        name = function.__qualname__.removesuffix('.__init__')
        takes = inspect.signature(function).parameters
        for old, new in renamed.items():
            if new not in takes or old in takes:
                raise ValueError(f'{name} takes {", ".join(takes)}: {old} cannot have become {new}')
        entries = [Renamed(f'{function.__module__}.{name}', old, new, since, gone) for old, new in renamed.items()]
        RENAMED.extend(entries)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for entry in entries:
                if entry.old not in kwargs:
                    continue
                if entry.new in kwargs:
                    raise TypeError(f'{name} got {entry.new} and its old name {entry.old}; omit {entry.old}')
                if entry not in _warned:
                    _warned.add(entry)
                    warnings.warn(
                        f'{name}: {entry.old} is called {entry.new} since mmvim {since}; '
                        f'the old name works until {gone}',
                        FutureWarning,
                        stacklevel=2,
                    )
                kwargs[entry.new] = kwargs.pop(entry.old)
            return function(*args, **kwargs)

        call.renamed_arguments = renamed  # type: ignore[attr-defined]
        return call

    return decorate


def old_names(function: Callable[..., Any]) -> dict[str, str]:
    """Return the old names that a function still takes, and the new ones.

    Examples:
        >>> from mmvim._deprecation import old_names, renamed_arguments
        >>> old_names(renamed_arguments('0.2', rate='drop_rate')(lambda drop_rate: drop_rate))
        {'rate': 'drop_rate'}
    """
    return getattr(function, 'renamed_arguments', {})


def overdue(version: str) -> list[Renamed]:
    """Return the old names whose time is over in a version: remove them, or the release breaks its promise of an end.

    Args:
        version: As '0.4.0'.

    Examples:
        >>> from mmvim._deprecation import overdue
        >>> overdue('0.1.0')
        []
    """
    return [entry for entry in RENAMED if _numbers(version) >= _numbers(entry.gone)]


def _numbers(version: str) -> tuple[int, int]:
    parts = version.split('.')
    if len(parts) < 2 or not all(part.isdigit() for part in parts[:2]):
        raise ValueError(f'since={version!r} is not a version; give major and minor, as in 0.2')
    return int(parts[0]), int(parts[1])


def _last(since: str) -> str:
    major, minor = _numbers(since)
    return f'{major}.{minor + KEPT_FOR}'
