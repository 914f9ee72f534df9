"""The page of ``mmvim app``: drop a picture, choose a model, see the overlay, the classes and the time."""

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mmvim.analysis.overlay import Drawn
from mmvim.cli.errors import ENVIRONMENT, UserError

Painter = Callable[[np.ndarray], Drawn]
HEAD = ('class', 'colour', 'share', 'instances', 'best score')


def table_of(drawn: Drawn) -> list[list[str]]:
    """Return the rows of the page's table, one for each class; columns as in :data:`HEAD`.

    Args:
        drawn: A prediction.

    Examples:
        >>> import numpy as np
        >>> from mmvim.analysis.overlay import Drawn, Found
        >>> from mmvim.cli.page import table_of
        >>> table_of(Drawn(np.zeros((8, 8, 3), np.uint8), [Found('sky', (1, 2, 3), share=0.25)], seconds=0.1))
        [['sky', '#010203', '25.0 %', '', '']]
    """
    return [
        [
            one.name,
            '#{:02x}{:02x}{:02x}'.format(*one.colour),
            '' if one.share is None else f'{100 * one.share:.1f} %',
            '' if one.count is None else str(one.count),
            '' if one.score is None else f'{one.score:.2f}',
        ]
        for one in drawn.found
    ]


def build_page(models: Mapping[str, Callable[[], Painter]]) -> Any:
    """Return the page.

    Args:
        models: What builds each model when it is first chosen, by the name that the page shows.

    Returns:
        ``gradio.Blocks``, to be launched.

    Raises:
        UserError: If gradio is not installed.
    """
    gr = _gradio()
    built: dict[str, Painter] = {}

    def predict(picture: np.ndarray | None, name: str) -> tuple[Any, list[list[str]], str]:
        if picture is None:
            return None, [], 'no picture yet'
        if name not in built:
            try:
                built[name] = models[name]()
            except UserError as error:
                raise gr.Error(str(error)) from error
        drawn = built[name](np.ascontiguousarray(picture[..., :3]))
        found = f'{len(drawn.found)} classes' if drawn.found else 'nothing found'
        return drawn.with_legend(), table_of(drawn), f'{drawn.seconds:.2f} s, {found}'

    names = list(models)
    with gr.Blocks(title='mmvim') as page:
        gr.Markdown('# What does the model see?')
        with gr.Row():
            with gr.Column():
                picture = gr.Image(label='picture', type='numpy', image_mode='RGB', sources=['upload', 'clipboard'])
                model = gr.Dropdown(names, value=names[0], label='model')
                button = gr.Button('Predict', variant='primary')
            with gr.Column():
                overlay = gr.Image(label='prediction', type='numpy', format='png', interactive=False)
                time = gr.Textbox(label='time', interactive=False)
                classes = gr.Dataframe(headers=list(HEAD), label='classes', interactive=False)
        wanted = {'fn': predict, 'inputs': [picture, model], 'outputs': [overlay, classes, time]}
        button.click(**wanted)
        picture.upload(**wanted)
        model.input(**wanted)
    return page


def launch(page: Any, host: str = '127.0.0.1', port: int = 7860, block: bool = True) -> str:
    """Serve a page on this machine; nothing is loaded from elsewhere, and nothing reported.

    Args:
        page: What :func:`build_page` returns.
        host: Address to listen on. Defaults to '127.0.0.1', this machine alone.
        port: Its port. Defaults to 7860.
        block: Whether to wait until the user presses Ctrl-C. Defaults to True.

    Returns:
        The address of the page.

    Raises:
        UserError: If the port is taken, or the address is not this machine's.
    """
    gr = _gradio()
    fonts = {'font': ['system-ui', 'sans-serif'], 'font_mono': ['monospace']}  # the defaults come from the web
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            theme=gr.themes.Default(**fonts),
        )
    except OSError as error:
        problem = f'--host {host} --port {port} cannot be used ({" ".join(str(error).split())})'
        raise UserError(problem, 'give another port, or an address of this machine', ENVIRONMENT) from error
    print(f'{address} (Ctrl-C ends)', flush=True)
    if block:
        page.block_thread()
    return address


def _gradio() -> Any:
    os.environ.setdefault('GRADIO_ANALYTICS_ENABLED', 'False')  # before it is imported
    try:
        import gradio
    except ImportError as error:
        raise UserError('mmvim app needs gradio', 'pip install "mmvim[demo]"', ENVIRONMENT) from error
    return gradio
