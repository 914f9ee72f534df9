"""Record a case from a publisher's model, where its code runs: NumPy, PyTorch and ``synthetic.py`` are all it takes.

    record('vim_tiny_cls', 'vim', 'ImageNet classifier Vim-Ti', model, [(2, 3, 224, 224)])

No weights are stored, and nothing of the publisher's code.
"""

import json
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

try:
    from golden import synthetic
except ImportError:  # copied, with synthetic.py beside it, to where the publisher's code is
    import synthetic


def described(output: Tensor) -> dict:
    """Return what a case keeps of an output."""
    wide = output.detach().double()
    return {
        'shape': list(output.shape),
        'mean': wide.mean().item(),
        'std': wide.std().item(),
        'samples': synthetic.samples(output.detach().numpy()).tolist(),
    }


def run(name: str, model: nn.Module, shape: Sequence[int]) -> dict:
    """Return the outputs of a model for an input of a shape (B, 3, H, W), and the gradients of its parameters."""
    key = f'{name}/{"x".join(map(str, shape))}'
    model.zero_grad()
    outputs = model(torch.from_numpy(synthetic.image(key, shape)))
    outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    cotangents = [torch.from_numpy(synthetic.cotangent(key, i, output.shape)) for i, output in enumerate(outputs)]
    loss = sum((weight * output).mean() for weight, output in zip(cotangents, outputs, strict=True))
    loss.backward()
    grads = {}
    for parameter, value in model.named_parameters():
        if value.grad is not None:
            grad = value.grad.double().numpy()
            projection = (grad * synthetic.probe(parameter, grad.shape)).sum()
            grads[parameter] = [float(np.linalg.norm(grad)), float(projection)]
    return {
        'key': key,
        'input': list(shape),
        'outputs': [described(output) for output in outputs],
        'loss': loss.item(),
        'grads': grads,
    }


def record(name: str, family: str, about: str, model: nn.Module, shapes: Sequence[Sequence[int]]) -> None:
    """Fill a model with the stand-in weights and write what it computes to ``<name>.json`` beside this file.

    Args:
        name: ``<family>_<arch>_<what it is>``.
        family: Its name.
        about: One line: which of the publisher's models, built how, and what its outputs are.
        model: The publisher's model, with the publisher's names.
        shapes: Of the inputs, (B, 3, H, W).
    """
    checkpoint = {key: list(value.shape) for key, value in model.state_dict().items()}
    weights = {key: torch.from_numpy(np.asarray(synthetic.tensor(key, shape))) for key, shape in checkpoint.items()}
    model.load_state_dict(weights)
    model.eval()
    case = {
        'name': name,
        'family': family,
        'about': about,
        'checkpoint': checkpoint,
        'parameters': sum(p.numel() for p in model.parameters()),
        'runs': [run(name, model, shape) for shape in shapes],
    }
    (synthetic.HERE / f'{name}.json').write_text(json.dumps(case) + '\n', 'utf-8')
