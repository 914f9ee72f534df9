"""The ViT-Adapter written out: every sample of an attention by itself, everything else as functions of the weights.

It runs the backbone's own blocks, and reads all else out of a dict of the adapter's weights.
"""

import math

import torch
import torch.nn.functional as F


def read_cell(maps, row, column):
    """A cell of maps (h, w, D), zero outside."""
    if 0 <= row < maps.shape[0] and 0 <= column < maps.shape[1]:
        return maps[row, column]
    return torch.zeros_like(maps[0, 0])


def read_point(maps, x, y):
    """Maps (h, w, D) at a point (x, y) in units of the map, between the centres of four cells."""
    column, row = x * maps.shape[1] - 0.5, y * maps.shape[0] - 0.5
    left, top = math.floor(column.item()), math.floor(row.item())
    right, down = column - left, row - top
    return (
        (1 - down) * ((1 - right) * read_cell(maps, top, left) + right * read_cell(maps, top, left + 1))
        + down * ((1 - right) * read_cell(maps, top + 1, left) + right * read_cell(maps, top + 1, left + 1))
    )  # fmt: skip


def sample(value, shapes, locations, weights):
    """See ``sample_maps``: value (B, S, M, D), locations (B, Q, M, L, P, 2), weights (B, Q, M, L, P)."""
    batch, queries, heads, _, points = weights.shape
    rows = []
    for b in range(batch):
        for q in range(queries):
            for m in range(heads):
                total, start = 0, 0
                for level, (height, width) in enumerate(shapes):
                    maps = value[b, start : start + height * width, m].reshape(height, width, -1)
                    start += height * width
                    for p in range(points):
                        x, y = locations[b, q, m, level, p]
                        total = total + weights[b, q, m, level, p] * read_point(maps, x, y)
                rows.append(total)
    return torch.stack(rows).reshape(batch, queries, -1)


def linear(weights, name, x):
    return F.linear(x, weights[f'{name}.weight'], weights[f'{name}.bias'])


def layer_norm(weights, name, x):
    return F.layer_norm(x, x.shape[-1:], weights[f'{name}.weight'], weights[f'{name}.bias'], 1e-6)


def batch_norm(weights, name, x):
    """A batch norm in evaluation mode."""
    mean, var, scale, shift = (
        weights[f'{name}.{part}'][:, None, None] for part in ('running_mean', 'running_var', 'weight', 'bias')
    )
    return (x - mean) / (var + 1e-5).sqrt() * scale + shift


def centres(shapes):
    """The centres of all cells, as (x, y)."""
    return [((j + 0.5) / w, (i + 0.5) / h) for h, w in shapes for i in range(h) for j in range(w)]


def attend(weights, name, query, reference, feature, shapes, heads):
    """Deformable attention of normed queries to normed features."""
    batch, queries, _ = query.shape
    levels = len(shapes)
    shares = linear(weights, f'{name}.attention_weights', query).reshape(batch, queries, heads, -1).softmax(-1)
    shares = shares.reshape(batch, queries, heads, levels, -1)
    offsets = linear(weights, f'{name}.sampling_offsets', query).reshape(*shares.shape, 2)
    sides = torch.tensor([[w, h] for h, w in shapes], dtype=query.dtype)
    points = torch.tensor(reference, dtype=query.dtype)[:, None, None, None] + offsets / sides[:, None]
    value = linear(weights, f'{name}.value_proj', feature).reshape(batch, feature.shape[1], heads, -1)
    return linear(weights, f'{name}.output_proj', sample(value, shapes, points, shares))


def conv_ffn(weights, name, x, shapes):
    y, parts, start = linear(weights, f'{name}.fc1', x), [], 0
    kernel, bias = weights[f'{name}.dwconv.dwconv.weight'], weights[f'{name}.dwconv.dwconv.bias']
    for height, width in shapes:
        part = y[:, start : start + height * width].transpose(1, 2).reshape(len(y), -1, height, width)
        parts.append(F.conv2d(part, kernel, bias, padding=1, groups=len(kernel)).flatten(2).transpose(1, 2))
        start += height * width
    return linear(weights, f'{name}.fc2', F.gelu(torch.cat(parts, 1)))


def as_map(tokens, shape):
    return tokens.transpose(1, 2).reshape(len(tokens), -1, *shape).contiguous()


def adapter_by_hand(model, x, heads):
    """The outputs of a ``ViTAdapter`` in evaluation mode, for sides that 32 divides."""
    weights = {**dict(model.named_parameters()), **dict(model.named_buffers())}

    def convolve(name, number, y, stride):
        y = F.conv2d(y, weights[f'spm.{name}.{number}.weight'], stride=stride, padding=1)
        return batch_norm(weights, f'spm.{name}.{number + 1}', y).relu()

    y = F.max_pool2d(convolve('stem', 6, convolve('stem', 3, convolve('stem', 0, x, 2), 1), 1), 3, 2, 1)
    maps = [y]
    for name in ('conv2', 'conv3', 'conv4'):
        maps.append(convolve(name, 0, maps[-1], 2))
    c1, *rest = (
        F.conv2d(m, weights[f'spm.fc{i + 1}.weight'], weights[f'spm.fc{i + 1}.bias']) for i, m in enumerate(maps)
    )
    c = torch.cat([m.flatten(2).transpose(1, 2) + e for m, e in zip(rest, weights['level_embed'], strict=True)], 1)
    shapes = [(x.shape[2] // s, x.shape[3] // s) for s in (8, 16, 32)]

    def extract(name, c, patches):
        query, feature = layer_norm(weights, f'{name}.query_norm', c), layer_norm(weights, f'{name}.feat_norm', patches)
        c = c + attend(weights, f'{name}.attn', query, centres(shapes), feature, shapes[1:2], heads)
        return c + conv_ffn(weights, f'{name}.ffn', layer_norm(weights, f'{name}.ffn_norm', c), shapes)

    tokens, grid = model.plain.embed(x)
    assert grid == shapes[1]
    streams = []
    for index, (first, last) in enumerate(model.groups):
        name = f'interactions.{index}'
        patches = model.plain.patches_of(tokens, grid)
        query = layer_norm(weights, f'{name}.injector.query_norm', patches)
        feature = layer_norm(weights, f'{name}.injector.feat_norm', c)
        found = attend(weights, f'{name}.injector.attn', query, centres([grid]), feature, shapes, heads)
        patches = patches + weights[f'{name}.injector.gamma'] * found
        tokens = model.plain.run_blocks(model.plain.with_patches(tokens, patches, grid), grid, first, last + 1)
        streams.append(model.plain.patches_of(tokens, grid))
        c = extract(f'{name}.extractor', c, streams[-1])
        more = {key.split('.')[3] for key in weights if key.startswith(f'{name}.extra_extractors.')}
        for number in sorted(more):
            c = extract(f'{name}.extra_extractors.{number}', c, streams[-1])

    sizes = [h * w for h, w in shapes]
    levels = [as_map(part, shape) for part, shape in zip(c.split(sizes, 1), shapes, strict=True)]
    c1 = c1 + F.conv_transpose2d(levels[0], weights['up.weight'], weights['up.bias'], stride=2)
    outputs = []
    for index, (level, scale) in enumerate(zip([c1, *levels], (4, 2, 1, 0.5), strict=True)):
        patches = as_map(streams[index if model.fuse == 'groups' else -1], grid)
        if scale != 1:
            patches = F.interpolate(patches, scale_factor=scale, mode='bilinear', align_corners=False)
        outputs.append(batch_norm(weights, f'norm{index + 1}', level + patches))
    return outputs
