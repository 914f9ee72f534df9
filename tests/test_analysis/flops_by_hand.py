"""Multiply-adds of every family at a square picture, by hand: from the sizes that their papers state, part by part.

As papers count: a multiply-add is one; norms, activations, biases and additions are nothing; a scan is 9 operations a
state and one for the skip D, for each path, channel and step, and one more for a gate inside of it.
"""

from math import ceil


def scan(steps, inner, states, paths=1, gate=False):
    """A selective scan."""
    return steps * inner * (paths * (9 * states + 1) + gate)


def attention(tokens, window, dim):
    """Queries, keys, values, both products and the projection."""
    return 4 * tokens * dim**2 + 2 * tokens * window * dim


def vim(side, dim, depth, states=16, patch=16, taps=4):
    """Vision Mamba without a class token."""
    tokens, inner, rank = (side // patch) ** 2, 2 * dim, ceil(dim / 16)
    block = tokens * dim * 2 * inner  # into the scan and its gate
    block += 2 * tokens * inner * taps  # both short convolutions
    block += 2 * tokens * inner * (rank + 2 * states) + 2 * tokens * rank * inner
    block += scan(tokens, inner, states, paths=2, gate=True) + tokens * inner * dim
    return {'patch_embed': tokens * 3 * patch**2 * dim, **{f'layers.{i}': block for i in range(depth)}}


def localvim(side, dim, depth, states=16, patch=16, taps=4, directions=4):
    """LocalVim; its windows fit the map of 14 x 14."""
    tokens, inner, rank = (side // patch) ** 2, 2 * dim, ceil(dim / 16)
    block = tokens * dim * 2 * inner
    each = tokens * inner * taps + tokens * inner * (rank + 2 * states) + tokens * rank * inner
    each += scan(tokens, inner, states, gate=True) + 2 * inner * (inner // 8)  # and the weights of the direction
    block += directions * each + tokens * inner * dim
    return {'patch_embed': tokens * 3 * patch**2 * dim, **{f'layers.{i}': block for i in range(depth)}}


def localmamba_counter(side, dim, depth, directions, weighed, states=16, patch=16, taps=4):
    """Vim and LocalVim as LocalMamba's own counter has them, classifier and norms included.

    It counts the short convolution and both projections of delta, B and C for one direction of all, and 5 operations
    in place of 9 for a state.
    """
    tokens, inner, rank = (side // patch) ** 2, 2 * dim, ceil(dim / 16)
    block = tokens * dim * 2 * inner + (tokens + taps - 1) * inner * taps
    block += tokens * inner * (rank + 2 * states) + tokens * rank * inner
    block += directions * tokens * inner * (5 * states + 2)
    block += (2 * inner * (inner // 8) if weighed else 0) + tokens * inner * dim + tokens * dim
    return tokens * 3 * patch**2 * dim + depth * block + 1000 * dim


def ss2d(cells, dim, ratio, states, gate, steps=None):
    """VMamba's mixer: four paths over all cells; with windows, ``steps`` of each path."""
    inner, rank = ratio * dim, ceil(dim / 16)
    found = cells * dim * inner * (2 if gate else 1) + 9 * cells * inner
    found += 4 * cells * inner * (rank + 2 * states) + 4 * cells * rank * inner
    return found + scan(steps or cells, inner, states, paths=4) + cells * inner * dim


def vmamba(side, dim, depths, ratio=1, states=1, mlp=4):
    """VMamba of the second release."""
    half, quarter = (side // 2) ** 2, (side // 4) ** 2
    parts = {'patch_embed': half * 27 * (dim // 2) + quarter * 9 * (dim // 2) * dim}
    for stage, depth in enumerate(depths):
        cells, c = quarter // 4**stage, dim * 2**stage
        parts[f'layers.{stage}'] = depth * (ss2d(cells, c, ratio, states, False) + 2 * cells * c * mlp * c)
        if stage < 3:
            parts[f'layers.{stage}'] += cells // 4 * 9 * c * 2 * c  # to the next stage
    return parts


def merging(cells, c):
    """From a stage to the next: four cells' channels to twice as many as one's."""
    return cells // 4 * 4 * c * 2 * c


def localvmamba(side, dim, depths, padded_blocks, ratio=2, states=16):
    """LocalVMamba: VMamba of the first release, whose directions are weighed.

    Windows of 7 fit every map of a picture of 224, windows of 2 do not fit the last one's 7 x 7 cells: all paths of
    ``padded_blocks`` of its blocks, which have such windows, then take 8 x 8 steps.
    """
    parts = {'patch_embed': (side // 4) ** 2 * 48 * dim}
    for stage, depth in enumerate(depths):
        edge, c = side // 4 // 2**stage, dim * 2**stage
        weights = 4 * 2 * ratio * c * (ratio * c // 8)
        padded = padded_blocks if stage == 3 else 0
        blocks = padded * ss2d(edge**2, c, ratio, states, True, (edge + 1) ** 2)
        blocks += (depth - padded) * ss2d(edge**2, c, ratio, states, True) + depth * weights
        parts[f'layers.{stage}'] = blocks + (merging(edge**2, c) if stage < 3 else 0)
    return parts


def msvmamba(side, dim, depths, ratio=2, states=1, ffn=2):
    """MSVMamba: one path over the map, three over a map of half its resolution."""
    parts = {'patch_embed': (side // 4) ** 2 * 48 * dim}
    for stage, depth in enumerate(depths):
        edge, c = side // 4 // 2**stage, dim * 2**stage
        cells, coarse, inner, rank = edge**2, ceil(edge / 2) ** 2, ratio * c, ceil(c / 16)
        block = cells * c * 2 * inner + 9 * cells * inner + 49 * coarse * inner
        block += (cells + coarse) * (inner * (rank + 2 * states) + rank * inner)
        block += scan(cells, inner, states) + scan(coarse, inner, states, paths=3)
        block += 2 * inner * (inner // 8) + cells * inner * c
        block += 2 * cells * c * ffn * c + 9 * cells * ffn * c
        parts[f'layers.{stage}'] = depth * block + (merging(cells, c) if stage < 3 else 0)
    return parts


def efficientvmamba(side, dim, depths, ratio=2, states=16):
    """EfficientVMamba: each cell is on one of four paths; the last two stages are inverted residuals."""
    parts = {'patch_embed': (side // 4) ** 2 * 48 * dim}
    for stage, depth in enumerate(depths):
        edge, c = side // 4 // 2**stage, dim * 2**stage
        cells, inner, rank = edge**2, ratio * c, ceil(c / 16)
        if stage < 2:
            block = cells * c * 2 * inner + 9 * cells * inner + cells * inner * (rank + 2 * states)
            block += cells * rank * inner + scan(cells, inner, states) + cells * inner * c
            block += 9 * cells * c + cells * c**2  # the convolutions beside it
        else:
            block = 2 * cells * c * 4 * c + 9 * cells * 4 * c + 2 * (4 * c) * (4 * c // 8)
        parts[f'layers.{stage}'] = depth * block + (merging(cells, c) if stage < 3 else 0)
    return parts


def mambavision(side, dim, depths, in_dim, windows=(14, 7), states=8, taps=3, mlp=4):
    """MambaVision; its windows fit the maps of a picture of 224."""
    parts = {'patch_embed': (side // 2) ** 2 * 27 * in_dim + (side // 4) ** 2 * 9 * in_dim * dim}
    for level, depth in enumerate(depths):
        cells, c = (side // 4 // 2**level) ** 2, dim * 2**level
        if level < 2:
            blocks = depth * 2 * 9 * cells * c**2
        else:
            half, rank = c // 2, ceil(c / 16)
            mixer = cells * c**2 + 2 * cells * taps * half + cells * half * (rank + 2 * states)
            mixer += cells * rank * half + scan(cells, half, states) + cells * c**2
            scanned = (depth + 1) // 2
            blocks = scanned * mixer + (depth - scanned) * attention(cells, windows[level - 2] ** 2, c)
            blocks += depth * 2 * cells * c * mlp * c
        parts[f'levels.{level}'] = blocks + (cells // 4 * 9 * c * 2 * c if level < 3 else 0)
    return parts


def mambavision_products(side, dim, depths, windows=(14, 7)):
    """The two products of MambaVision's attention alone."""
    found = 0
    for level in (2, 3):
        cells, c = (side // 4 // 2**level) ** 2, dim * 2**level
        found += depths[level] // 2 * 2 * cells * windows[level - 2] ** 2 * c
    return found


def plainmamba(side, dim, depth, stem=64, convs=1, states=16, taps=49, conv_blocks=(0,)):
    """PlainMamba L1: a stem of convolutions, four zigzag paths with one set of projections."""
    half, tokens, inner, rank = (side // 2) ** 2, (side // 16) ** 2, 2 * dim, ceil(dim / 16)
    block = tokens * dim * 2 * inner + taps * tokens * inner
    block += tokens * inner * (rank + 2 * states) + tokens * rank * inner
    block += scan(tokens, inner, states, paths=4, gate=True) + tokens * inner * dim
    stem_cost = half * 3 * 49 * stem + convs * half * 9 * stem**2 + tokens * 64 * stem * dim
    return {
        'patch_embed': stem_cost,
        **{f'layers.{i}': block + (9 * tokens * dim if i in conv_blocks else 0) for i in range(depth)},
    }


def vrwkv(side, dim, depth, patch=16, hidden=4):
    """Vision-RWKV; its average takes 13 operations a channel and token."""
    tokens = (side // patch) ** 2
    block = 4 * tokens * dim**2 + 13 * tokens * dim  # key, value, receptance, output; and the average
    block += 2 * tokens * dim * hidden * dim + tokens * dim**2
    return {'patch_embed': tokens * 3 * patch**2 * dim, **{f'layers.{i}': block for i in range(depth)}}
