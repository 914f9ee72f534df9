"""Arithmetic that gives the same bits on every machine.

The scenes must be identical wherever they are rendered. Addition, multiplication, division and square root are exactly
rounded by IEEE 754; ``np.sin``, ``np.exp`` and ``np.power`` are not, and NumPy picks another implementation of them on
CPUs with wider vectors. The scene code therefore uses only the former, through the helpers of this module, and takes
its random numbers from uniform draws.
"""

from functools import lru_cache

import numpy as np

TILE = 512  # side of the noise tiles; a power of two, so that wrapping is a bit mask


def wave(turns: np.ndarray | float) -> np.ndarray:
    """Sine of an angle in turns, by Bhaskara's rational formula (absolute error below 0.002).

    Args:
        turns: Angle in full turns, any shape.

    Returns:
        Values in [-1, 1], float32, same shape.
    """
    turns = np.asarray(turns, dtype=np.float32)
    phase = (turns - np.floor(turns)) * np.float32(2)  # [0, 2): half turns
    sign = np.where(phase < 1, np.float32(1), np.float32(-1))
    half = np.where(phase < 1, phase, phase - np.float32(1))
    bump = half * (np.float32(1) - half)
    return sign * np.float32(16) * bump / (np.float32(5) - np.float32(4) * bump)


def direction(turns: float) -> tuple[float, float]:
    """Unit vector (x, y) at an angle in turns, normalised by an exactly rounded square root."""
    x, y = float(wave(turns + 0.25)), float(wave(turns))
    length = float(np.sqrt(np.float64(x * x + y * y)))
    return x / length, y / length


def smooth(value: np.ndarray, low: float, high: float) -> np.ndarray:
    """Smooth step: 0 below ``low``, 1 above ``high``, cubic in between (``low`` may exceed ``high``)."""
    t = np.clip((value - np.float32(low)) / np.float32(high - low), 0, 1).astype(np.float32)
    return t * t * (np.float32(3) - np.float32(2) * t)


def mix(first: np.ndarray, second: np.ndarray, weight: np.ndarray | float) -> np.ndarray:
    """Linear blend, ``first`` where weight is 0 and ``second`` where it is 1."""
    return first + (second - first) * weight


def bell(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Noise close to a standard normal: the centred, scaled sum of four uniform draws. float32."""
    total = rng.random(shape, dtype=np.float32)
    for _ in range(3):
        total += rng.random(shape, dtype=np.float32)
    return (total - np.float32(2)) * np.float32(1.7320508)  # each uniform has variance 1/12, four have 1/3


def _octave(rng: np.random.Generator, cells: int) -> np.ndarray:
    """Periodic value noise of ``cells`` x ``cells`` lattice points on a TILE x TILE grid."""
    lattice = rng.random((cells, cells), dtype=np.float32)
    position = np.arange(TILE, dtype=np.float32) * np.float32(cells / TILE)
    low = position.astype(np.int64)
    high = (low + 1) % cells
    t = position - low.astype(np.float32)
    t = t * t * (np.float32(3) - np.float32(2) * t)
    rows = mix(lattice[low], lattice[high], t[:, None])
    return mix(rows[:, low], rows[:, high], t[None, :])


@lru_cache(maxsize=8)
def noise_tile(name: str) -> np.ndarray:
    """Periodic noise of TILE x TILE values in [0, 1], float32, read-only; the same array for the same name.

    Args:
        name: ``'cloud'`` (large shapes down to fine detail), ``'rough'`` (middle to fine: ground, leaves) or
            ``'grain'`` (fine only: plaster, asphalt).
    """
    first, last, seed = {'cloud': (2, 7, 11), 'rough': (4, 8, 12), 'grain': (6, 9, 13)}[name]
    rng = np.random.Generator(np.random.PCG64(seed))
    tile = np.zeros((TILE, TILE), np.float32)
    weight, total = 1.0, 0.0
    for level in range(first, last + 1):
        tile += np.float32(weight) * _octave(rng, 2**level)
        total += weight
        weight *= 0.55
    tile /= np.float32(total)
    tile = np.clip((tile - tile.min()) / (tile.max() - tile.min()), 0, 1)
    tile.setflags(write=False)
    return tile


def sample(name: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Read a noise tile at positions that broadcast against each other, wrapping around. float32 in [0, 1]."""
    columns = np.floor(x).astype(np.int64) & (TILE - 1)
    rows = np.floor(y).astype(np.int64) & (TILE - 1)
    return noise_tile(name)[rows, columns]


def ridge(rng: np.random.Generator, width: int, cell: float, octaves: int = 5) -> np.ndarray:
    """One-dimensional fractal noise, the outline of a mountain range.

    Args:
        rng: Source of the lattice values.
        width: Number of values.
        cell: Distance between the peaks of the coarsest octave, in values.
        octaves: Number of octaves, each half as wide and half as high. Defaults to 5.

    Returns:
        (width,) float32 in [0, 1].
    """
    result = np.zeros(width, np.float32)
    weight, total = 1.0, 0.0
    for _ in range(octaves):
        lattice = rng.random(int(width / cell) + 3, dtype=np.float32)
        position = np.arange(width, dtype=np.float32) / np.float32(cell) + rng.random(dtype=np.float32)
        low = position.astype(np.int64)
        t = position - low.astype(np.float32)
        result += np.float32(weight) * mix(lattice[low], lattice[low + 1], t)
        total += weight
        weight *= 0.5
        cell = max(cell * 0.5, 2.0)
    return result / np.float32(total)
