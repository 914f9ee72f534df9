"""Models on the Hugging Face hub: load one by its name, and push one with a card that says what it is.

    from mmvim import hub
    model = hub.from_pretrained('owner/upernet-vim-tiny')

Needs ``pip install "mmvim[hub]"``. A repository holds ``config.json`` (the model as a config names it; nothing in it is
run), ``model.safetensors`` and ``README.md``, the card.
"""

from mmvim.hub.card import Measurement, model_card
from mmvim.hub.repository import from_pretrained, push

__all__ = ['Measurement', 'from_pretrained', 'model_card', 'push']
