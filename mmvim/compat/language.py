"""What vision models import of ``mamba_ssm``'s language side, and never call: it is here to be imported."""

from __future__ import annotations

from typing import Any, NoReturn


def _refuse(name: str) -> NoReturn:
    raise NotImplementedError(
        f"mmvim.compat has {name} so that vision models' imports succeed, not to be called: for language models "
        'install mamba_ssm'
    )


class GenerationMixin:
    """The base class of ``mamba_ssm``'s language models; a subclass does everything but generate.

    Examples:
        >>> GenerationMixin().generate()
        Traceback (most recent call last):
        NotImplementedError: mmvim.compat has GenerationMixin.generate so that vision models' imports succeed, ...
    """

    def generate(self, *arguments: Any, **keywords: Any) -> NoReturn:
        """Raise a NotImplementedError."""
        _refuse('GenerationMixin.generate')


def load_config_hf(*arguments: Any, **keywords: Any) -> NoReturn:
    """Raise a NotImplementedError: configs of language models are ``mamba_ssm``'s."""
    _refuse('load_config_hf')


def load_state_dict_hf(*arguments: Any, **keywords: Any) -> NoReturn:
    """Raise a NotImplementedError: weights of language models are ``mamba_ssm``'s."""
    _refuse('load_state_dict_hf')
