"""What tools/fuzz.py begins with, and how it damages it: whole inputs of each format, and changes of their bytes."""

import contextlib
import io
import json
import random
import warnings
import zipfile
from argparse import Namespace
from pathlib import Path

ARCH = {'embed_dims': 8, 'depth': 1}
WORDS = (
    'model.arch.depth=3',
    'model.drop_path_rate=0.1',
    'model.type=mmvim.Vim',
    'model.init_cfg.type=Pretrained',
    'train_dataloader.dataset.pipeline.0.scale=(8,16)',
    'optim_wrapper.clip_grad.max_norm=1',
    'optim_wrapper.optimizer.betas=[0.9,0.99]',
    'pair="[1, 2, (3, 4)]"',
    'model._delete_=True',
    'work_dir=a folder/x',
)
# What means something in one of the formats: opcodes of pickles, numbers of zip files, tokens of JSON and of options.
TOKENS = (
    *(
        b'%c' % code
        for code in b'().0123456789BCFGHIJKLMNPQRSTUVXYZ[]abcdeghijlopqrstu}\x80\x81\x85\x86\x87\x88\x8a\x8c'
    ),
    *b'PK\x01\x02 PK\x03\x04 PK\x05\x06 PK\x06\x06 PK\x06\x07 \xff\xff\xff\xff \0\0\0\0 \x7f \xed\xa0\x80'.split(b' '),
    *b'NaN 1e999 -1 null {} [[[ = . .. ( ) " \' , type _delete_ _scope_ \\ { }'.split(b' '),
    b'\n',
)


def make_seeds(target: str, folder: Path) -> None:
    """Write whole inputs of a target, small, one of each format."""
    folder.mkdir(parents=True, exist_ok=True)
    if target == 'options':
        for number, word in enumerate(WORDS):
            (folder / f'option_{number}').write_text(word)
        (folder / 'options').write_text('\n'.join(WORDS))
        return
    import numpy as np
    import torch
    from mmengine.logging import HistoryBuffer
    from safetensors.torch import save_file

    from mmvim.checkpoints.files.int8 import pack
    from mmvim.models import Vim

    torch.manual_seed(0)
    weights = Vim(ARCH, img_size=32).state_dict()
    some = {'norm.weight': torch.ones(3), 'w': torch.ones(2, 2, dtype=torch.bfloat16), 'n': torch.tensor(3)}
    meta = {'cfg': "model = dict(backbone=dict(type='mmvim.Vim', img_size=(32, 32)))", 'epoch': 1}
    history = {'loss': HistoryBuffer(np.ones(2), np.ones(2))}
    for name, content in {
        'vim': {'state_dict': weights, 'meta': meta},
        'small': {'model': some, 'args': Namespace(lr=0.1), 'message_hub': history, 'lr': np.float64(0.1)},
        'bare': some,
        'int8': pack({'head.weight': torch.ones(4, 256)}),
    }.items():
        torch.save(content, folder / f'{name}.pth')
        torch.save(content, folder / f'{name}_legacy.pth', _use_new_zipfile_serialization=False)
    save_file(some, folder / 'some.safetensors', {'format': 'pt'})
    with zipfile.ZipFile(folder / 'small.pth') as archive:
        members = [(member.filename, archive.read(member)) for member in archive.infolist()]
    with zipfile.ZipFile(folder / 'packed.pth', 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    (folder / 'model.safetensors.index.json').write_text(json.dumps({'weight_map': {'w': 'some.safetensors'}}))


def inputs(folder: Path) -> list[bytes]:
    """Return the contents of a folder's files, by name, without notes about them."""
    files = sorted(path for path in folder.glob('*') if path.is_file() and path.suffix not in ('.txt', '.md'))
    return [path.read_bytes() for path in files]


def change_bytes(data: bytes, rng: random.Random) -> bytes:
    """Change, remove, repeat or insert a few bytes or tokens, or cut the end off."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        place, kind = rng.randrange(len(changed) + 1), rng.randrange(8)
        length = rng.choice((1, 1, 2, 4, 8, 32))
        if kind < 3 and place < len(changed):
            changed[place] = rng.choice((changed[place] ^ (1 << rng.randrange(8)), rng.randrange(256), 0, 255))
        elif kind == 3:
            del changed[place : place + length]
        elif kind == 4:
            changed[place:place] = changed[place : place + length] * rng.choice((1, 2, 50))
        elif kind == 5:
            token = rng.choice(TOKENS)
            changed[place : place + rng.choice((0, len(token)))] = token
        elif kind == 6:
            token = rng.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63, len(data))).to_bytes(8, 'little')
            changed[place : place + length] = token[: min(length, 8)]
        elif rng.random() < 0.2:
            del changed[place:]
    return bytes(changed)


def damage(data: bytes, rng: random.Random) -> bytes:
    """Damage an input; half of the time inside of a container whose checksums and lengths are put right afterwards."""
    if rng.random() < 0.5:
        return change_bytes(data, rng)
    if data.startswith(b'PK'):
        with contextlib.suppress(Exception):  # of an archive that is damaged already
            return _damage_archive(data, rng)
    length = int.from_bytes(data[:8], 'little')
    if data[8:9] == b'{' and length <= len(data):
        header = change_bytes(data[8 : 8 + length], rng)
        return len(header).to_bytes(8, 'little') + header + data[8 + length :]
    return change_bytes(data, rng)


def _damage_archive(data: bytes, rng: random.Random) -> bytes:
    """Damage one member of an archive, mostly the pickle, or the name of one."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(member.filename, archive.read(member), member.compress_type) for member in archive.infolist()]
    pickles = [place for place, member in enumerate(members) if member[0].endswith('.pkl')]
    chosen = rng.choice(pickles) if pickles and rng.random() < 0.8 else rng.randrange(len(members))
    stream = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(stream, 'w') as archive:
        warnings.simplefilter('ignore')  # two members of one name
        for place, (name, content, kind) in enumerate(members):
            if place == chosen and rng.random() < 0.9:
                content = change_bytes(content, rng)
            elif place == chosen:
                name = change_bytes(name.encode(), rng).decode('utf-8', 'replace') or 'x'
            archive.writestr(name, content, kind)
    return stream.getvalue()
