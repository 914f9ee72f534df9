"""Model cards: what a model is, how it is loaded, how it was measured and under which licence it stands."""

import json
from collections.abc import Sequence
from numbers import Real
from typing import Any, NamedTuple

_TASKS = {'mmseg': 'image-segmentation', 'mmdet': 'object-detection', None: 'image-feature-extraction'}


class Measurement(NamedTuple):
    """A number of a model, with how it came about.

    Args:
        metric: What was measured, such as 'mIoU'.
        value: The number.
        dataset: On which data.
        split: On which part of them.
        how: The protocol: sizes, scales, crops, the command, the machine where it matters.

    Examples:
        >>> from mmvim.hub import Measurement
        >>> Measurement('mIoU', 41.3, 'ADE20K', 'validation', 'one scale, whole picture, `mmvim test`').metric
        'mIoU'
    """

    metric: str
    value: float
    dataset: str
    split: str
    how: str


def check_measurements(measured: Sequence[Measurement]) -> None:
    """Check that each number says on what and how it was measured.

    Args:
        measured: The numbers.

    Raises:
        ValueError: If a part of one is empty, or its value is no number.

    Examples:
        >>> from mmvim.hub.card import Measurement, check_measurements
        >>> try:
        ...     check_measurements([Measurement('mIoU', 41.3, 'ADE20K', 'validation', '')])
        ... except ValueError as error:
        ...     print(error)
        mIoU lacks its "how"; a number without it says nothing
    """
    for one in measured:
        for part in ('metric', 'dataset', 'split', 'how'):
            if not str(getattr(one, part)).strip():
                raise ValueError(
                    f'{one.metric or "a measurement"} lacks its "{part}"; a number without it says nothing'
                )
        if isinstance(one.value, bool) or not isinstance(one.value, Real) or one.value != one.value:
            raise ValueError(f'{one.metric}={one.value!r} is not a number')


def model_card(
    repo_id: str,
    description: dict,
    *,
    license: str,
    measured: Sequence[Measurement] = (),
    parameters: int | None = None,
    text: str = '',
) -> str:
    """Return the card of a model, Markdown with the hub's header.

    Args:
        repo_id: ``owner/name``.
        description: What ``config.json`` holds, see :mod:`mmvim.hub.description`.
        license: Of the weights, as the hub calls it, such as 'apache-2.0', 'cc-by-nc-4.0' or 'other'.
        measured: What was measured. Defaults to (), and the card says that nothing was.
        parameters: Their number. Defaults to None, not said.
        text: Paragraphs of your own, behind the first one. Defaults to ''.

    Raises:
        ValueError: If ``license`` is empty, or a number does not say how it was measured.

    Examples:
        >>> from mmvim.hub import Measurement, model_card
        >>> from mmvim.hub.description import describe
        >>> number = Measurement('mIoU', 41.3, 'ADE20K', 'validation', 'one scale')
        >>> card = model_card('me/vim', describe(dict(type='mmvim.Vim')), license='apache-2.0', measured=[number])
        >>> print(card.splitlines()[1], '...', [line for line in card.splitlines() if 'one scale' in line][-1])
        library_name: mmvim ... | mIoU | 41.3 | ADE20K, validation | one scale |
    """
    if not license.strip():
        raise ValueError("license is empty; name the weights' licence as the hub does, such as 'apache-2.0'")
    check_measurements(measured)
    name = repo_id.rpartition('/')[2]
    scope, model = description.get('default_scope'), description['model']
    backbone = (model.get('backbone') or {}).get('type')
    kind = f'`{model["type"]}` with the backbone `{backbone}`' if backbone else f'`{model["type"]}`'
    count = f', {parameters / 1e6:.1f} million parameters' if parameters else ''
    classes = description.get('classes')
    number = f' It tells {len(classes)} classes apart: {_some(classes)}.' if classes else ''
    parts = [
        f'---\n{_header(name, scope, license, measured)}---\n',
        f'# {name}\n\n{kind}{count}, for mmvim {description["version"]}.{number}\n',
        f'{text.strip()}\n' if text.strip() else '',
        '## How to use it\n\n```python\nfrom mmvim import hub\n\n'
        f"model = hub.from_pretrained('{repo_id}')  # a torch.nn.Module in eval mode\n```\n",
        f'## How it was measured\n\n{_table(measured)}',
        f'## Licence\n\nThe weights are published under `{license}`. Data that they were trained on have licences of '
        'their own.\n',
    ]
    return '\n'.join(part for part in parts if part)


def _header(name: str, scope: str | None, license: str, measured: Sequence[Measurement]) -> str:
    """Return the lines between the dashes; JSON is YAML, and quotes what has to be."""
    task = _TASKS.get(scope, 'image-feature-extraction')
    lines = ['library_name: mmvim', f'license: {json.dumps(license)}', f'pipeline_tag: {task}']
    lines.append('tags: ["mmvim", "state-space-model", "vision-mamba"]')
    if measured:
        results: list[dict[str, Any]] = [
            {
                'task': {'type': task},
                'dataset': {'name': one.dataset, 'type': one.dataset, 'split': one.split},
                'metrics': [
                    {'type': one.metric, 'value': float(one.value), 'name': one.metric, 'args': {'how': one.how}}
                ],
            }
            for one in measured
        ]
        lines.append(f'model-index: {json.dumps([{"name": name, "results": results}], ensure_ascii=False)}')
    return '\n'.join(lines) + '\n'


def _table(measured: Sequence[Measurement]) -> str:
    if not measured:
        return 'Nothing was measured.\n'
    rows = ['| metric | value | on | how |', '|-|-|-|-|']
    for one in measured:
        cells = (one.metric, f'{one.value:g}', f'{one.dataset}, {one.split}', one.how)
        rows.append(f'| {" | ".join(" ".join(str(cell).replace("|", "/").split()) for cell in cells)} |')
    return '\n'.join(rows) + '\n'


def _some(names: Sequence[str], limit: int = 20) -> str:
    shown = ', '.join(str(name) for name in names[:limit])
    return f'{shown} and {len(names) - limit} more' if len(names) > limit else shown
