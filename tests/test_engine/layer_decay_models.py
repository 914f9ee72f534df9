"""Small models with every kind of parameter, and how the tests read what the constructor gave to each."""

import logging
from contextlib import contextmanager

import torch
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from torch import nn

LR, WD = 1e-3, 0.1
CONSTRUCTOR = 'mmvim.LearningRateDecayOptimWrapperConstructor'
MAMBA_VISION = {
    'type': 'mmvim.MambaVision',
    'arch': {'depths': (1, 1, 2, 2), 'dim': 4, 'in_dim': 4, 'num_heads': (1, 1, 2, 2), 'layer_scale': 1e-5},
    'window_sizes': (8, 8, 8, 8),
}


class Scale(nn.Module):
    """A layer scale: one-dimensional, and neither norm nor bias."""

    def __init__(self, dims):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dims))


class CustomRMSNorm(nn.Module):
    """A norm that torch does not know."""

    def __init__(self, dims):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dims))


class Block(nn.Module):
    def __init__(self, dims=4):
        super().__init__()
        self.norm = CustomRMSNorm(dims)
        self.proj = nn.Linear(dims, dims)
        self.A_log = nn.Parameter(torch.zeros(dims, 2))
        self.D = nn.Parameter(torch.ones(dims))
        self.ls = Scale(dims)
        self.table = nn.Parameter(torch.zeros(dims, 2))
        self.table._no_weight_decay = True


class Backbone(nn.Module):
    """Two blocks; depths 0 (embedding) to 3 (final norm)."""

    def __init__(self):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 4, 2)
        self.pos_embed = nn.Parameter(torch.zeros(1, 4, 4))
        self.layers = nn.ModuleList([Block(), Block()])
        self.norm_f = nn.LayerNorm(4)

    def get_layer_depth(self, param_name, prefix=''):
        name = param_name[len(prefix) :]
        if name.startswith('layers.'):
            return int(name.split('.')[1]) + 1, 4
        return (3 if name.startswith('norm_f') else 0), 4


class Segmentor(nn.Module):
    def __init__(self, backbone=None):
        super().__init__()
        self.backbone = backbone or Backbone()
        self.head = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))


def build(model, **paramwise_cfg):
    """Build through MMEngine's own builder, as the runner does."""
    return build_optim_wrapper(
        model,
        {
            'type': 'OptimWrapper',
            'optimizer': {'type': 'AdamW', 'lr': LR, 'weight_decay': WD},
            'constructor': CONSTRUCTOR,
            'paramwise_cfg': paramwise_cfg,
        },
    )


def settings(model, **paramwise_cfg):
    """Map each parameter's name to (lr / LR, weight_decay / WD), from what the optimizer holds."""
    groups = build(model, **paramwise_cfg).optimizer.param_groups
    of = {id(p): (g['lr'] / LR, g['weight_decay'] / WD) for g in groups for p in g['params']}
    assert sum(len(g['params']) for g in groups) == len(of), 'a parameter is in two groups'
    return {name: of[id(p)] for name, p in model.named_parameters() if id(p) in of}


@contextmanager
def capture_log(messages):
    """Collect what goes through MMEngine's current logger."""
    handler, logger = logging.Handler(), MMLogger.get_current_instance()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
