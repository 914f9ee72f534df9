"""The error of pictures with other bands than are needed, apart from what reads files, so that models raise it too."""


class BandsError(ValueError):
    """Error for a picture that lacks bands or measurements, or has other bands than the model takes.

    Args:
        message: Names the file and what is wrong with it. (One text, so that a data worker can send the error.)

    Examples:
        >>> from mmvim.datasets.errors import BandsError
        >>> print(BandsError('field.tif has 4 bands, and the model takes 5'))
        field.tif has 4 bands, and the model takes 5
    """
