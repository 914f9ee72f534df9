"""Whether forward hooks fire: an observer of a model's parts must see them, whichever kernels run instead of them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmvim.ops.backends import ENV


def parts(model: nn.Module) -> list[str]:
    """Return the names of what a model consists of above single layers: its blocks, their mixers, the embedding, ...

    Hooks there leave each layer inside of them to the fused kernels.
    """
    return [name for name, module in model.named_modules() if name and list(module.children())]


def layers(model: nn.Module) -> list[str]:
    """Return the names of the layers with weights that kernels take the place of."""
    kinds = (nn.Linear, nn.Conv1d, nn.LayerNorm, nn.RMSNorm)
    return [name for name, module in model.named_modules() if isinstance(module, kinds)]


def fired(model: nn.Module, names: Sequence[str], picture: Tensor) -> tuple[list[str], list[Tensor]]:
    """Run a model without gradients, with forward hooks on modules; return the names in the order in which they fired.

    Args:
        model: A backbone.
        names: Of the modules.
        picture: Its input.

    Returns:
        The names, and the model's outputs.
    """
    seen = []
    handles = [
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: seen.append(name)) for name in names
    ]
    with torch.no_grad():
        outputs = model(picture)
    for handle in handles:
        handle.remove()
    return seen, list(outputs)


def assert_hooks_fire(
    model: nn.Module, blocks: Sequence[nn.Module], picture: Tensor, backend: str, monkeypatch
) -> None:
    """Check that on a backend the same hooks fire as where the definition runs, and that the outputs are the same."""
    names_of_blocks = {name for name, module in model.named_modules() if any(module is block for block in blocks)}
    assert len(names_of_blocks) == len(blocks)
    for names, expected in ((parts(model), names_of_blocks), (layers(model), set(layers(model)))):
        monkeypatch.setenv(ENV, 'reference')
        found, outputs = fired(model, names, picture)
        assert expected <= set(found)
        monkeypatch.setenv(ENV, backend)
        found_here, outputs_here = fired(model, names, picture)
        assert found_here == found
        for y, here in zip(outputs, outputs_here, strict=True):
            torch.testing.assert_close(here, y, rtol=1e-4, atol=1e-5)
