"""Triton's interpreter without what it does again and again: tests of interpreted kernels take a third of the time.

What it computes stays as it is.
"""

import dataclasses
import functools
from collections.abc import Callable
from types import ModuleType


def hasten(interpreter: ModuleType) -> None:
    """Change ``triton.runtime.interpreter``; leave one whose parts have other names as it is."""
    parts = '_patch_lang', '_get_np_dtype', 'GridExecutor', 'interpreter_builder'
    if not all(hasattr(interpreter, name) for name in parts):
        return
    _replace_once_a_launch(interpreter)
    interpreter._get_np_dtype = _remembering(interpreter._get_np_dtype)
    # Without ``debug`` it works out for every sum of integers whether it overflows, and drops the answer.
    builder = interpreter.interpreter_builder
    if not builder.options.debug:
        builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)


def _replace_once_a_launch(interpreter: ModuleType) -> None:
    """Look through ``triton.language`` for what is to be replaced once a launch, not for each call within a kernel."""
    replace, launch, seen = interpreter._patch_lang, interpreter.GridExecutor.__call__, set()

    def replace_once(function):
        module = id(function.__globals__)
        if module in seen:
            return None
        seen.add(module)
        return replace(function)

    def launch_anew(self, *args, **kwargs):
        seen.clear()
        return launch(self, *args, **kwargs)

    interpreter._patch_lang, interpreter.GridExecutor.__call__ = replace_once, launch_anew


def _remembering(find: Callable) -> Callable:
    """Let a function of a type of Triton, a block's or a number's, look for each type of number once."""
    find_once = functools.cache(find)

    def found(kind):
        number = kind.scalar
        return find(kind) if number.is_ptr() else find_once(number)

    return found
