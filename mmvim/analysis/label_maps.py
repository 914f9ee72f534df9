"""Label maps of segmentors drawn over their pictures."""

from collections.abc import Sequence

import cv2
import numpy as np

from mmvim.analysis.instances import COLOURS, write_text

STRENGTH = 0.5  # of a class's colour over the picture
SMALLEST = 100  # pixels of a region that is named


def draw_labels(
    image: np.ndarray, labels: np.ndarray, names: Sequence[str], palette: Sequence[Sequence[int]] | None = None
) -> np.ndarray:
    """Tint each pixel in the colour of its class, and write the name into the largest region of each.

    Args:
        image: (H, W, 3) uint8, RGB.
        labels: (H, W), numbers of classes; what is no class, as 255 for pixels to be ignored, is left as it is.
        names: Names of the classes, by number.
        palette: A colour (R, G, B), 0 to 255, for each class. Defaults to None, colours that repeat after ten classes.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        ValueError: If the label map is not of the picture's size, or the palette has fewer colours than classes.

    Examples:
        >>> import numpy as np
        >>> from mmvim.analysis.label_maps import draw_labels
        >>> image, labels = np.zeros((4, 6, 3), np.uint8), np.full((4, 6), 255)
        >>> labels[:, 3:] = 1
        >>> drawn = draw_labels(image, labels, ('sky', 'road'), [(0, 0, 200), (200, 0, 0)])
        >>> drawn[0, 0].tolist(), drawn[0, 5].tolist()
        ([0, 0, 0], [100, 0, 0])
    """
    if labels.shape != image.shape[:2]:
        raise ValueError(f'a label map of {labels.shape} does not fit a picture of {image.shape[:2]}')
    colours = np.asarray(palette if palette else [COLOURS[k % len(COLOURS)] for k in range(len(names))])
    if len(colours) < len(names):
        raise ValueError(f'palette has {len(colours)} colours for {len(names)} classes; give one for each')
    drawn, regions = image.copy(), []
    for number, name in enumerate(names):
        inside = labels == number
        if not inside.any():
            continue
        drawn[inside] = ((1 - STRENGTH) * image[inside] + STRENGTH * colours[number]).astype(np.uint8)
        _, found, about, centres = cv2.connectedComponentsWithStats(inside.astype(np.uint8))
        largest = 1 + int(about[1:, cv2.CC_STAT_AREA].argmax())
        if about[largest, cv2.CC_STAT_AREA] >= SMALLEST:
            ys, xs = np.nonzero(found == largest)
            nearest = ((np.stack([xs, ys], 1) - centres[largest]) ** 2).sum(1).argmin()  # a bent region's is outside
            regions.append((name, int(xs[nearest]), int(ys[nearest])))
    for name, x, y in regions:
        write_text(drawn, name, max(0, x - 3 * len(name)), max(9, y))
    return drawn
