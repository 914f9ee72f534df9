"""What the Triton kernels take of a GPU when they are compiled: the specialisations, and the record of them.

    python tests/test_ops/triton_resources.py          # compile what the record lacks (all: half an hour of a core)
    python tests/test_ops/triton_resources.py --all    # record everything anew, after a kernel or the table has changed
    python tests/test_ops/triton_resources.py --check  # compile all of it again and compare

The record, triton_resources.json, has a line for each specialisation: registers a thread and bytes of shared memory of
each kernel. It holds for the version of Triton that it names. No GPU is needed; nothing runs. What it covers is EVERY:
``build_launches`` says what the settings are.
"""

import argparse
import json
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch

RECORD = Path(__file__).with_suffix('.json')
DTYPES = ('float16', 'bfloat16', 'float32')
MOST_SHARED = 16 * 1024
# So many warps of a kernel find room among the 65536 registers of a processor.
LEAST_WARPS = {
    'forward': 8,
    'segments': 8,
    'segments, adjoint': 8,
    'backward': 8,
    'merge': 16,
    'add': 16,
    'gate': 16,
    'collect': 16,
    'chain': 16,
    'chain, adjoint': 16,
    'conv forward': 16,
    'conv backward': 12,
    'conv transposed': 16,
    'norm forward': 16,
    'norm backward': 16,
    'wkv forward': 16,
    'wkv backward': 16,
}


class Specialisation(NamedTuple):
    """Kernels that are compiled; see :func:`build_launches` for the settings.

    The number is that of states, or of the channels of a norm or a WKV.
    """

    setting: str
    number: int
    dtype: str
    length: int
    arch: int

    def __str__(self) -> str:
        return f'{self.setting} N={self.number} {self.dtype} L={self.length} sm_{self.arch}'


class Call(NamedTuple):
    """How a scan is called, beside its number of states, its dtype and its length."""

    maps: tuple[int, ...] = (-1,)
    reverse: tuple[bool, ...] = (False,)
    own_u: bool = True
    gate: bool = False
    states: bool = False
    optional: bool = True
    follow: tuple[bool, bool, bool, bool] = (True,) * 4
    stack: bool = False
    out: str = ''
    groups: int = 1
    dim: int = 384
    own_A: bool = True
    states_fastest: bool = True
    padding: int = 0


CALLS = {
    'vim': Call((-1, -1), (False, True), gate=True),
    'cross': Call((-1, 0, -1, 0), (False, False, True, True), own_u=False),
    'gated': Call(gate=True, states=True),
    'mambavision': Call(dim=392),
    'masked': Call(dim=160),
    'ragged': Call((-1, -1), (False, True), gate=True, dim=240),
    'drop-in': Call(reverse=(True,), gate=True, groups=2, out='float32', states_fastest=False),
    'bare': Call(optional=False, groups=4, dim=300),
    'u along maps': Call(
        (0, 1, 0, 1), (False, False, True, True), own_u=False, follow=(True, False, False, False), own_A=False
    ),
    'stacked': Call((0, -1), (False, True), gate=True, stack=True, out='float32', own_A=False),
    'huge': Call((-1, -1), (False, True), gate=True, dim=24576),
    'many maps': Call((-1, *range(15)), (True, *(False,) * 15), own_u=False),
    'windows': Call((0, 1, 0, 1), (False, False, True, True), gate=True, padding=100),
    'atrous': Call((0, 1, 2, 3), (False,) * 4, own_u=False, stack=True, own_A=False, padding=-700),
    'in steps': Call((0,), gate=True, states=True, follow=(False,) * 4, padding=100),
}
CONVOLUTIONS = {'conv of Vim': (384, 4, (3, 0), True), 'conv of MambaVision': (392, 3, (1,), False)}
NORM = 'norm'
WKVS = {'wkv exact': False, 'wkv published': True}
SETTINGS = (*CALLS, *CONVOLUTIONS, NORM, *WKVS)


def build_launches(setting: str, number: int, dtype: str, length: int) -> dict:
    """The launches of a forward and a backward pass by name, from tensors without memory.

    Scans, all but 'bare' with D, delta_bias and softplus, cut into segments where the kernels may do so:
        vim             two paths there and back with their own u, summed and gated
        cross           four paths over one u, two along an index map, with their outputs summed
        gated           one path with a gate in the kernel, a first state and the gradient of the last
        mambavision     one path over 392 channels (no multiple of 16) without a gate
        masked          the same over 160 channels (MambaVision-T), which are not whole blocks
        ragged          'vim' over 240 channels, recorded with an odd number of steps: neither is whole blocks or tiles
        drop-in         one reversed path as mamba_ssm takes it, steps of B, C fastest, 2 groups, a gate, float32 out
        bare            one path over four groups of 75 channels, nothing optional, no softplus
        u along maps    four paths along two maps that u alone follows, with one A, D, delta_bias (PlainMamba)
        stacked         two gated paths with an output each, float32, with one A for both; one along a map
        huge            'vim' over 24576 channels; with 100 000 steps, strides of more than 2^31 elements
        many maps       sixteen paths over one u, fifteen along a map of their own, with their outputs summed
        windows         four partial paths along two maps with padding steps, summed and gated (LocalMamba)
        atrous          four partial paths over one u, along maps of fewer steps, with an output each (EfficientVMamba)
        in steps        one partial path with a gate and states, whose tensors are in the order of its steps (MSVMamba)
    The convolutions are those of Vim (two filters) and MambaVision (392 channels), forward and backward; 'norm' is
    RMSNorm with the residual in float32, of as many channels as ``number`` says, and so are the bidirectional WKVs, as
    the paper and as the published kernel have it.
    """
    if setting in CONVOLUTIONS:
        found = convolution(setting, dtype, length)
    elif setting == NORM:
        found = norm(number, dtype, length)
    elif setting in WKVS:
        found = wkv(WKVS[setting], number, dtype, length)
    else:
        found = scan(CALLS[setting], number, dtype, length)
    return {launch.name + (', adjoint' if launch.arguments.get('ADJOINT') else ''): launch for launch in found}


def empty(*shape: int, kind: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=kind, device='meta')


def scan(call: Call, d_state: int, dtype: str, length: int) -> list:
    from mmvim.ops.selective_scan.arguments import ScanArguments
    from mmvim.ops.selective_scan.triton import launches

    batch, dim, kind, paths, groups = 2, call.dim, getattr(torch, dtype), len(call.maps), call.groups
    shared, steps = paths if call.own_A else 1, length + call.padding
    columns = [length if follows else steps for follows in call.follow]  # of u, delta, B, C

    def projection(columns: int) -> torch.Tensor:
        if call.states_fastest:
            return empty(batch, paths, groups, columns, d_state, kind=kind).mT
        return empty(batch, paths, groups, d_state, columns, kind=kind)

    args = ScanArguments(
        empty(batch, paths if call.own_u else 1, columns[0], dim, kind=kind).mT,
        empty(batch, paths, columns[1], dim, kind=kind).mT,
        empty(shared, dim, d_state),
        projection(columns[2]),
        projection(columns[3]),
        empty(shared, dim) if call.optional else None,
        empty(batch, length, dim, kind=kind).mT if call.gate else None,
        empty(shared, dim) if call.optional else None,
        empty(batch, 1, dim, d_state) if call.states else None,
        empty(max(call.maps) + 1, steps, kind=torch.int64) if max(call.maps) >= 0 else None,
        call.maps,
        call.reverse,
        call.follow,
        length,
        call.padding != 0,
        call.optional,
        call.stack,
        getattr(torch, call.out or dtype),
    )
    segments = 4 if steps >= 384 else 1
    forward, (out, last_state, saved) = launches.forward(args, True, segments=segments)
    grad_last_state = last_state.mT if call.states else None
    backward, _ = launches.backward(args, out.mT, grad_last_state, saved, segments=segments)
    return forward + backward


def convolution(setting: str, dtype: str, length: int) -> list:
    from mmvim.ops.conv_silu.triton import backward_launches, forward_launch

    dim, taps, left, bias = CONVOLUTIONS[setting]
    # Half of a wider projection; under autocast filters stay in float32.
    inputs = (
        empty(2, length, 2 * dim, kind=getattr(torch, dtype))[..., :dim],
        empty(len(left), dim, taps),
        empty(len(left), dim) if bias else None,
        left,
    )
    forward, y = forward_launch(*inputs)
    return [forward, *backward_launches(y, *inputs)[0]]


def norm(channels: int, dtype: str, length: int) -> list:
    from mmvim.ops.rms_norm.triton import backward_launch, forward_launch

    kind, full = getattr(torch, dtype), torch.float32
    x, residual, weight = empty(2, length, channels, kind=kind), empty(2, length, channels), empty(channels)
    forward, (y, total, scale) = forward_launch(x, residual, weight, 1e-5, kind)
    return [forward, backward_launch(y, total, total, weight, scale, kind, full)[0]]


def wkv(published: bool, channels: int, dtype: str, length: int) -> list:
    from mmvim.ops.bi_wkv.triton import backward_launch, forward_launch

    own, tokens = empty(channels), empty(2, length, channels, kind=getattr(torch, dtype))
    inputs = own, own, tokens, tokens, published
    return [forward_launch(*inputs)[0], backward_launch(tokens, *inputs)[0]]


def grid(
    setting: str, numbers: tuple[int, ...], archs: tuple[int, ...], length: int = 1024, dtypes: tuple[str, ...] = DTYPES
) -> list[Specialisation]:
    return [Specialisation(setting, *rest, length, arch) for *rest, arch in product(numbers, dtypes, archs)]


SERVERS, CONSUMERS = (80, 90, 100), (86, 89, 120)
TWO = {'dtypes': ('float16', 'float32')}
# The convolutions, the norm and the WKV; MambaVision's channels; what else one may ask for; paths with padding steps;
# consumers' GPUs; numbers of states between powers of two; rows too short to be cut; VMamba's paths, 1 or 16 states; a
# gate and a first state, 8 or 64; and Vim's two directions, every power of two. Dtypes and servers' architectures are
# all three unless said otherwise.
EVERY = [
    *(x for name in CONVOLUTIONS for x in grid(name, (0,), SERVERS)),
    *grid(NORM, (192, 384, 768, 1000, 4096), SERVERS),
    *(x for name in WKVS for x in grid(name, (384,), SERVERS)),
    *(x for name in WKVS for x in grid(name, (1000,), CONSUMERS, **TWO)),
    *grid('mambavision', (8,), SERVERS),
    *grid('masked', (8,), SERVERS, length=196),
    *grid('masked', (8,), CONSUMERS, length=49, **TWO),
    *(x for name in ('mambavision', 'drop-in', 'u along maps', 'stacked') for x in grid(name, (16,), (90,), **TWO)),
    *(x for name in ('drop-in', 'bare', 'u along maps', 'stacked') for x in grid(name, (1, 8), (90,), **TWO)),
    *grid('huge', (1, 8, 16), (90,), length=100_000, **TWO),
    *grid('many maps', (1, 16), (90,), **TWO),
    *grid('ragged', (1, 16), (90,), length=1021, **TWO),
    *grid('windows', (1, 8, 16), SERVERS),
    *(x for name in ('atrous', 'in steps') for x in grid(name, (1, 8, 16), (90,), **TWO)),
    *grid('windows', (24, 64), (90,), **TWO),
    *grid('windows', (16,), CONSUMERS, **TWO),
    *(
        x
        for name, n in (('vim', 16), ('gated', 8), ('cross', 1), ('vim', 64))
        for x in grid(name, (n,), CONSUMERS, **TWO)
    ),
    *grid('vim', (3, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 17, 20, 24, 33, 40, 48, 63), (90,), **TWO),
    *grid('vim', (7, 15, 24), (80, 100), dtypes=('float32',)),
    *grid('vim', (1, 16), SERVERS, length=196),
    *grid('vim', (16,), SERVERS, length=197),
    *(x for name in ('cross', 'u along maps', 'stacked') for x in grid(name, (16,), (90, 100), length=1021, **TWO)),
    *grid('cross', (1, 16), SERVERS),
    *grid('gated', (8, 64), SERVERS),
    *grid('gated', (16,), (90,), dtypes=('float16',)),
    *grid('vim', (16, 8, 1, 32, 64, 2, 4), SERVERS),
]
# Few, and each row of the table, each architecture, dtype and setting among them.
FEW = [
    Specialisation(*x)
    for x in (
        ('vim', 1, 'float32', 1024, 80),
        ('cross', 1, 'float16', 1024, 90),
        ('vim', 1, 'float16', 196, 90),
        ('gated', 8, 'bfloat16', 1024, 100),
        ('vim', 16, 'float16', 1024, 90),
        ('vim', 16, 'float16', 196, 90),
        ('vim', 64, 'float32', 1024, 90),
        ('vim', 15, 'float32', 1024, 80),
        ('vim', 24, 'float32', 1024, 80),
        ('vim', 24, 'float32', 1024, 100),
        ('mambavision', 8, 'float32', 1024, 80),
        ('masked', 8, 'float16', 196, 90),
        ('ragged', 16, 'float16', 1021, 90),
        ('drop-in', 1, 'float16', 1024, 90),
        ('bare', 1, 'float16', 1024, 90),
        ('u along maps', 1, 'float32', 1024, 90),
        ('cross', 1, 'float32', 1024, 86),
        ('stacked', 1, 'float16', 1024, 90),
        ('huge', 1, 'float32', 100_000, 90),
        ('many maps', 1, 'float16', 1024, 90),
        ('windows', 16, 'float16', 1024, 90),
        ('atrous', 1, 'float32', 1024, 90),
        ('in steps', 8, 'float16', 1024, 90),
        ('conv of Vim', 0, 'float16', 1024, 90),
        ('conv of MambaVision', 0, 'float32', 1024, 80),
        ('norm', 384, 'bfloat16', 1024, 100),
        ('wkv exact', 384, 'float16', 1024, 90),
        ('wkv published', 384, 'float32', 1024, 80),
    )
]


def measure(wanted: Specialisation) -> dict:
    """Compile all kernels of a specialisation: their :class:`Resources` by name.

    Of spilled registers those count that are spilled in a loop. What a kernel puts aside before its loops and takes
    back after them, a few bytes once in a program, costs nothing.
    """
    from mmvim.ops.selective_scan.triton import sizes
    from mmvim.ops.triton_host.resources import compile_launch, read_resources

    with mock.patch.object(sizes, 'architecture', lambda device: wanted.arch):
        launches = build_launches(*wanted[:-1])
    found = {}
    for name, launch in launches.items():
        compiled = compile_launch(launch, wanted.arch)
        one = read_resources(compiled)
        found[name] = one if not one.spilled or spills_in_loops(compiled) else replace(one, spilled=0)
    return found


def spills_in_loops(compiled: Any) -> bool:
    """Whether a compiled kernel writes or reads spilled registers in a loop."""
    from triton_counts import disassemble, find_loops, read_code

    code = read_code(disassemble(compiled))
    inside = (opcode for loop in find_loops(code) for opcode, _ in code[loop.first : loop.last + 1])
    return any(opcode.startswith(('LDL', 'STL')) for opcode in inside)


def faults(found: dict) -> list[str]:
    """What is wrong with resources by kernel, whichever version of Triton compiled it."""
    wrong = []
    for name, one in found.items():
        warps = 65536 // (32 * -(-one.registers // 8) * 8)
        if one.spilled or one.shared > MOST_SHARED or warps < LEAST_WARPS[name]:
            wrong.append(f'{name}: {one}')
    return wrong


def brief(found: dict) -> dict[str, list[int]]:
    """As the record has it: registers and shared memory by kernel."""
    return {name: [one.registers, one.shared] for name, one in found.items()}


def read() -> dict:
    """The record: 'triton', its version, and 'kernels', by specialisation and kernel."""
    return json.loads(RECORD.read_text())


def write(record: dict) -> None:
    lines = ',\n'.join(f'{json.dumps(key)}: {json.dumps(value)}' for key, value in sorted(record['kernels'].items()))
    RECORD.write_text(f'{{"triton": {json.dumps(record["triton"])},\n"kernels": {{\n{lines}\n}}}}\n')


def main() -> int:
    import triton

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--all', action='store_true', help='compile what the record has, too')
    parser.add_argument('--check', action='store_true', help='write nothing; compare')
    parser.add_argument('--only', default='', help='only specialisations whose name contains this, as "N=16 float16"')
    args = parser.parse_args()
    record = read() if RECORD.exists() else {}
    if record.get('triton') != triton.__version__ or (args.all and not args.only):
        if args.check:
            parser.error(f'--check: the record is of Triton {record.get("triton")}, this is {triton.__version__}')
        record = {'triton': triton.__version__, 'kernels': {}}
    wrong = 0
    for wanted in sorted(EVERY, key=lambda x: x not in FEW):
        name = str(wanted)
        if args.only not in name or (name in record['kernels'] and not (args.all or args.check)):
            continue
        found = measure(wanted)
        bad = faults(found)
        if args.check and record['kernels'].get(name) != brief(found):
            bad.append(f'the record has {record["kernels"].get(name)}')
        wrong += bool(bad)
        print(name, brief(found), *bad, flush=True)
        if not (args.check or bad):  # the record is of kernels without faults
            record['kernels'][name] = brief(found)
            write(record)
    print(f'{wrong} specialisations with faults')
    return wrong > 0


if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    sys.exit(main())
