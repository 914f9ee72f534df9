"""What a mixer computes of its weights alone: in every pass, or, in a copy for inference, once."""

from torch import Tensor, nn


class DerivedWeights(nn.Module):
    """A module that computes tensors of its weights alone, such as a scan's A of its logarithm.

    An ordinary module computes them anew in each pass. Weights are exchanged and overwritten in ways that nothing tells
    of (MMEngine's averages write through ``.data``, ``torch.func.functional_call`` swaps them), so whatever was kept
    could be of other weights. :func:`mmvim.optimize_for_inference` lets its copies, whose weights stay, keep them.

    Examples:
        >>> import torch
        >>> class Twice(DerivedWeights):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.weight = nn.Parameter(torch.ones(2))
        ...     def derive(self):
        ...         return {'double': 2 * self.weight}
        >>> module = Twice()
        >>> module.weight.data.fill_(3.0).tolist(), module.derived()['double'].tolist()
        ([3.0, 3.0], [6.0, 6.0])
        >>> module.keep_derived()
        >>> module.weight.data.fill_(4.0).tolist(), module.derived()['double'].tolist()
        ([4.0, 4.0], [6.0, 6.0])
    """

    _kept: tuple[str, ...] = ()

    def derive(self) -> dict[str, Tensor]:
        """Compute the tensors, by name; for a subclass to define."""
        raise NotImplementedError

    def derived(self) -> dict[str, Tensor]:
        """Return the tensors, by name: kept ones, or ones computed now."""
        return {name: self.get_buffer(f'derived_{name}') for name in self._kept} if self._kept else self.derive()

    def keep_derived(self) -> None:
        """Compute the tensors a last time and keep them, as buffers that no state dict has."""
        for name, value in self.derive().items():
            self.register_buffer(f'derived_{name}', value.detach().clone(), persistent=False)
            self._kept = (*self._kept, name)
