"""The configs that come with mmvim: their names, and what was published for them.

Imports neither PyTorch nor MMEngine, so that ``mmvim models`` answers at once.
"""

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import mmvim
from mmvim.cli.errors import ENVIRONMENT, UserError

# What an installation ships beside the code, and an editable one links to: configs/, tools/, model-index.yml.
MIM = Path(mmvim.__file__).parent / '.mim'


@dataclass(frozen=True)
class Recipe:
    """A config with the number that was published for it.

    Attributes:
        name: The config's name.
        config: Its path below ``configs``.
        data: The data set that it trains on.
        metric: What the number is, e.g. 'mIoU'; None if the metafile does not say.
        value: The number, or a list of two; None if nobody published one.
        source: Where it was published, or whose recipe it is; None if the metafile does not say.

    Examples:
        >>> from mmvim.cli.recipes import Recipe
        >>> Recipe('vim-x', 'vim/vim-x.py', 'COCO', 'box AP / mask AP', [46.1, 41.0], 'https://example.org').cells()
        ('vim-x', 'COCO', 'box AP / mask AP', '46.1 / 41.0', 'https://example.org')
    """

    name: str
    config: str
    data: str
    metric: str | None = None
    value: float | list[float] | None = None
    source: str | None = None

    def cells(self) -> tuple[str, ...]:
        """Return what a table shows of it."""
        values = self.value if isinstance(self.value, list) else [self.value]
        number = ' / '.join('-' if value is None else str(value) for value in values)
        return self.name, self.data, self.metric or '-', number, self.source or '-'


def find_config(name: str) -> Path:
    """Return the file of a config.

    Args:
        name: A file, else the name of one of mmvim's configs, with or without folder and ``.py``.

    Raises:
        UserError: If there is none; it names the nearest.

    Examples:
        >>> from mmvim.cli.recipes import find_config
        >>> find_config('upernet_vim_t_ade20k').name
        'upernet_vim_t_ade20k.py'
    """
    path = Path(name)
    if path.is_file():
        return path
    if path.is_dir():
        raise UserError(f'config {name} is a directory', f'{name} holds {_some(path)}')
    known = {own.with_suffix('').parts: own for own in _configs()}
    wanted = Path(name.removesuffix('.py')).parts
    found = [own for parts, own in known.items() if ('configs', *parts)[-len(wanted) :] == wanted]
    if found and not name.startswith('.'):
        return MIM / 'configs' / found[0]
    names = [parts[-1] for parts in known]
    if len(wanted) > 1 and path.parent.is_dir():
        remedy = f'{path.parent} holds {_some(path.parent, path.stem)}'
    else:
        remedy = f'did you mean {" or ".join(nearest(path.stem, names))}? `mmvim models` lists what there is'
    raise UserError(f'config {name} does not exist', remedy)


def published(words: Sequence[str] = ()) -> list[Recipe]:
    """Return the configs of the metafiles, in their order.

    Args:
        words: What must occur in a row, in any column and case. Defaults to (), all rows.

    Raises:
        UserError: If no row has all the words; it names the nearest.

    Examples:
        >>> from mmvim.cli.recipes import published
        >>> {recipe.data for recipe in published(['Vim', 'upernet'])}
        {'ADE20K'}
    """
    index = _load('model-index.yml')
    recipes = [_recipe(model) for file in index['Import'] for model in _load(file)['Models']]
    found = [recipe for recipe in recipes if all(word.lower() in ' '.join(recipe.cells()).lower() for word in words)]
    if not found:
        close = ', '.join(nearest(' '.join(words), [recipe.name for recipe in recipes]))
        raise UserError(f'no config has {" and ".join(map(repr, words))}', f'the nearest are {close}')
    return found


def nearest(text: str, names: Iterable[str], number: int = 3) -> list[str]:
    """Return the names that resemble a text most, by the words that both consist of.

    Args:
        text: What was typed.
        names: What there is.
        number: How many to return. Defaults to 3.

    Examples:
        >>> from mmvim.cli.recipes import nearest
        >>> nearest('upernt tiny', ['vim-base_upernet', 'vim-tiny_upernet', 'vim-tiny_in1k'], number=1)
        ['vim-tiny_upernet']
    """

    def likeness(name: str) -> float:
        theirs = _words(name)
        return sum(max(difflib.SequenceMatcher(None, a, b).ratio() for b in theirs) for a in _words(text))

    return sorted(names, key=likeness, reverse=True)[:number]


def _words(text: str) -> list[str]:
    return [word for word in re.split(r'[\W_]+', text.lower()) if word]


def _configs() -> list[Path]:
    folder = MIM / 'configs'
    if not folder.is_dir():
        raise UserError(f'{folder} does not exist', 'give the path of a config, or install mmvim anew', ENVIRONMENT)
    found = (path.relative_to(folder) for path in sorted(folder.rglob('*.py')))
    return [path for path in found if path.parts[0] != '_base_']


def _some(folder: Path, like: str = '') -> str:
    names = nearest(like, sorted(path.name for path in folder.glob('*.py')), number=4)
    return ', '.join(names) or 'no config'


def _load(file: str) -> dict[str, Any]:
    path = MIM / file
    try:
        return yaml.safe_load(path.read_text('utf-8'))
    except OSError as error:
        raise UserError(f'{path} cannot be read ({error.strerror})', 'install mmvim anew', ENVIRONMENT) from error


def _recipe(model: dict[str, Any]) -> Recipe:
    metadata = model.get('Metadata', {})
    numbers = metadata.get('Published') or {}
    data = metadata.get('Training Data', '-')
    return Recipe(
        model['Name'],
        model['Config'].removeprefix('configs/'),
        data if isinstance(data, str) else ', '.join(data),
        numbers.get('metric'),
        numbers.get('value'),
        numbers.get('source'),
    )
