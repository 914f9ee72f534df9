"""Every scan order constructed anew, slowly, cell by cell."""

from mmvim.ops import available_scan_paths

SIZES = [(1, 1), (1, 6), (5, 1), (3, 5), (6, 4), (7, 7), (2, 9), (8, 3), (10, 13)]


def cells(name, H, W):
    """Visited cells (row, column), one after the other."""
    stem = name.removesuffix('_reverse')
    visited = []
    if stem.startswith('window'):
        w, by_column = int(stem.removeprefix('window').removesuffix('_col')), stem.endswith('_col')
        # Sort by window, then by place in it, the column first where columns lead.
        keys = {
            (i, j): ((j // w, i // w, j, i) if by_column else (i // w, j // w, i, j))
            for i in range(H)
            for j in range(W)
        }
        visited = sorted(keys, key=keys.get)
    else:
        outer, inner = (H, W) if stem.endswith('row') else (W, H)
        for a in range(outer):
            backwards = stem.startswith('zigzag') and a % 2
            for b in range(inner - 1, -1, -1) if backwards else range(inner):
                visited.append((a, b) if stem.endswith('row') else (b, a))
    return visited[::-1] if name.endswith('_reverse') else visited


def raster(name, H, W):
    return [i * W + j for i, j in cells(name, H, W)]


NAMES = [name.replace('<w>', w) for name in available_scan_paths() for w in (('2', '3') if '<w>' in name else ('',))]
