"""The score of a model that has only learned which class is most frequent."""

from collections.abc import Iterable

import numpy as np


def majority_floor(
    train_labels: Iterable[np.ndarray], val_labels: Iterable[np.ndarray], num_classes: int, ignore_index: int = 255
) -> dict[str, float | int]:
    """Return the scores of predicting the training set's most frequent class everywhere.

    Args:
        train_labels: Label maps, integers, any shape; they decide the class.
        val_labels: Label maps that the constant prediction is scored on.
        num_classes: Number of classes; labels are 0 to ``num_classes - 1``.
        ignore_index: Label that is not scored. Defaults to 255.

    Returns:
        ``class`` (its index), ``mIoU`` and ``aAcc`` in percent. As in MMSegmentation, the mean is taken over the
        classes that occur in the truth or the prediction.

    Raises:
        ValueError: If either set has no labelled pixel, or a label lies outside the classes.

    Examples:
        >>> import numpy as np
        >>> from mmvim.analysis.majority_floor import majority_floor
        >>> majority_floor([np.array([1, 1, 0])], [np.array([1, 1, 1, 0])], num_classes=3)
        {'class': 1, 'mIoU': 37.5, 'aAcc': 75.0}
    """
    train = _count(train_labels, num_classes, ignore_index, 'train_labels')
    val = _count(val_labels, num_classes, ignore_index, 'val_labels')
    majority = int(train.argmax())
    share = float(val[majority] / val.sum())  # its intersection over its union, which is every pixel
    occurring = np.count_nonzero(val) + (val[majority] == 0)
    return {'class': majority, 'mIoU': 100 * share / int(occurring), 'aAcc': 100 * share}


def _count(labels: Iterable[np.ndarray], num_classes: int, ignore_index: int, name: str) -> np.ndarray:
    total = np.zeros(num_classes, np.int64)
    for label in labels:
        values = label[label != ignore_index].astype(np.int64)
        if values.size and not 0 <= values.min() <= values.max() < num_classes:
            raise ValueError(f'{name} holds a label outside 0 to {num_classes - 1}: {values.min()} to {values.max()}')
        total += np.bincount(values, minlength=num_classes)
    if not total.sum():
        raise ValueError(f'{name} holds no labelled pixel')
    return total
