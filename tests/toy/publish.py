"""What only the finished toy can say: its golden cases, and the size of its segmentor for its README.

Stands for the publisher, too: the models recorded here have the publisher's names.
"""

from pathlib import Path

import torch
from checkout import CONFIGS, load_config
from golden.record import record
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmvim.models import Toy


class Published(nn.Module):
    """The toy under its publisher's names."""

    def __init__(self, classes: int = 0) -> None:
        super().__init__()
        own = Toy(out_indices=-1, final_norm=True) if classes else Toy()
        self.stem, self.blocks = own.patch_embed, own.blocks
        self.norm, self.head = own.norm, nn.Linear(own.embed_dims, classes) if classes else None

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        tokens, grid = self.stem(x)
        x, outputs = tokens.mT.unflatten(2, grid), []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        return outputs if self.head is None else [self.head(self.norm(x).mean((2, 3)))]


def main() -> None:
    """Write all of it into the tree that is on the path."""
    record('toy_nano_cls', 'toy', 'a classifier; output: logits', Published(1000), [(2, 3, 64, 96)])
    record('toy_nano_dense', 'toy', 'the backbone; outputs: both maps', Published(), [(2, 3, 64, 64), (1, 3, 80, 48)])
    (recipe,) = Path(CONFIGS, 'toy').glob('*.py')
    cfg = load_config(f'toy/{recipe.name}')
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        millions = sum(p.numel() for p in MODELS.build(cfg.model).parameters()) / 1e6
    readme = CONFIGS / 'toy' / 'README.md'
    readme.write_text(readme.read_text('utf-8').replace('PARAMETERS', f'{millions:.1f}'), 'utf-8')


if __name__ == '__main__':
    main()
