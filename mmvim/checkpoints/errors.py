"""The one kind of error that reading and fitting a checkpoint raises."""


class CheckpointError(ValueError):
    """A checkpoint cannot be used, and nothing of it was.

    Args:
        problem (str): What is wrong, naming the file and what was found in it.
        remedy (str): What to do about it.
        misfit (bool): Whether the file is sound and only the wrong one for what it was given to. Defaults to False.
    """

    def __init__(self, problem: str, remedy: str, misfit: bool = False) -> None:
        super().__init__(f'{problem}; {remedy}')
        self.problem, self.remedy, self.misfit = problem, remedy, misfit


def some(names, limit: int = 3) -> str:
    """The first names of a list and how many more there are: 'a, b, c and 4 more'.

    Args:
        names (iterable of str): The names.
        limit (int): How many to write out. Defaults to 3.
    """
    names = list(names)
    more = f' and {len(names) - limit} more' if len(names) > limit else ''
    return ', '.join(str(name) for name in names[:limit]) + more
