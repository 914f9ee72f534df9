"""Every scan order constructed anew, slowly, cell by cell."""

from mmvim.ops import available_scan_paths

SIZES = [(1, 1), (1, 6), (5, 1), (3, 5), (6, 4), (7, 7), (2, 9), (8, 3), (10, 13)]


def cells(name, H, W):
    """Visited cells (row, column), one after the other; None for a padding step."""
    stem = name.removesuffix('_reverse')
    visited = []
    if stem.startswith('window'):
        visited = windows(stem, H, W)
    elif stem.startswith('atrous'):
        visited = grid(*map(int, stem.removeprefix('atrous').split('_')), H, W)
    elif stem.endswith('diagonal'):
        visited = diagonals(stem, H, W)
    else:
        outer, inner = (H, W) if stem.endswith('row') else (W, H)
        for a in range(outer):
            backwards = stem.startswith('zigzag') and a % 2
            for b in range(inner - 1, -1, -1) if backwards else range(inner):
                visited.append((a, b) if stem.endswith('row') else (b, a))
    return visited[::-1] if name.endswith('_reverse') else visited


def windows(stem, H, W):
    """Cells sorted by window, then by place in it, the column first where columns lead."""
    by_column, padded = stem.endswith('_col'), '_padded' in stem
    w = int(stem.removeprefix('window').removesuffix('_col').removesuffix('_padded'))
    height, width = (-(-side // w) * w if padded else side for side in (H, W))
    keys = {
        (i, j): ((j // w, i // w, j, i) if by_column else (i // w, j // w, i, j))
        for i in range(height)
        for j in range(width)
    }
    return [(i, j) if i < H and j < W else None for i, j in sorted(keys, key=keys.get)]


def grid(p, k, H, W):
    """Every p-th cell of every p-th row; the first grid has as many steps as there are with padding."""
    offset = [(row, column) for column in range(p) for row in range(p)][k - 1]
    rows, columns = ([offset[axis] + p * n for n in range(-(-side // p))] for axis, side in enumerate((H, W)))
    visited = [(i, j) for i in rows for j in columns]
    if offset[0] % 2:
        visited.sort(key=lambda cell: cell[::-1])
    return [(i, j) if i < H and j < W else None for i, j in visited]


def diagonals(stem, H, W):
    """Line by line: those of equal i + j, or, mirrored, i - j."""
    visited = []
    for line in range(H + W - 1):
        on = [(i, line - i) for i in range(H) if 0 <= line - i < W]
        visited += on[::-1] if stem.startswith('zigzag') and line % 2 == 0 else on
    return [(i, W - 1 - j) for i, j in visited] if stem.endswith('antidiagonal') else visited


def raster(name, H, W):
    return [-1 if cell is None else cell[0] * W + cell[1] for cell in cells(name, H, W)]


def examples(name):
    """Names that an entry of the table stands for."""
    if name.startswith('atrous'):
        return [name.replace('<p>_<k>', pair) for pair in ('1_1', '2_1', '2_2', '2_3', '2_4', '3_5', '3_9')]
    return [name.replace('<w>', w) for w in ('2', '3')] if '<w>' in name else [name]


# The Hilbert curve has a test of its own: no neighbour of a cell is far along it.
NAMES = [each for name in available_scan_paths() for each in examples(name) if not name.startswith('hilbert')]
WHOLE = [name for name in NAMES if not name.startswith('atrous') and '_padded' not in name]
