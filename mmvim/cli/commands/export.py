"""Write a backbone, a segmentor or a classifier as an ONNX file or a PyTorch program, and compare it with the model.

    mmvim export upernet_vim_t_ade20k --checkpoint work_dirs/vim_t/iter_160000.pth --out vim_t.onnx
    mmvim export vim_t_midclstok_76p1acc.pth --out classifier.onnx
    mmvim export upernet_vim_t_ade20k --out vim_t.pt2     # a program of torch.export
    mmvim export upernet_vim_t_ade20k --checkpoint work_dirs/vim_t/iter_160000.pth --int8 --out small.pth

Pictures of any number and size can be given to the exported model. docs/deployment.md says what is exact.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from mmengine.config import Config
from torch import nn

import mmvim
from mmvim import checkpoints
from mmvim.cli.arguments import OptionsAction
from mmvim.cli.commands import command_parser
from mmvim.cli.config import SUFFIXES, check_compiled_ops, load_config
from mmvim.cli.errors import ENVIRONMENT, USAGE, UserError, warn
from mmvim.cli.int8 import write_int8
from mmvim.cli.model import build_model
from mmvim.cli.options import find_types
from mmvim.cli.weights import check_fit, checkpoint_errors, is_remote, local_checkpoint, read_checkpoint
from mmvim.deploy.errors import EXPORT_PACKAGES, DeployError, MissingPackageError, check_packages
from mmvim.deploy.parts import Classifier, Features, Segmentor
from mmvim.deploy.recipe import IMAGENET, as_metadata, config_preprocessing

if TYPE_CHECKING:
    from mmvim.deploy import Exported

SUFFIXES_OUT = ('.onnx', '.pt2')
PARTS = ('model', 'backbone')
RESULTS = ('labels', 'scores')
_WEIGHTS = ('.pth', '.pt', '.bin', '.safetensors', '.tar', '.ckpt')


class Subject(NamedTuple):
    """What is exported.

    Attributes:
        model: Tensors in, tensors out.
        outputs: Names of its outputs; None, numbered.
        metadata: What the file will say of itself.
        size: Height and width of its usual pictures.
    """

    model: nn.Module
    outputs: list[str] | None
    metadata: dict[str, str]
    size: tuple[int, int]


def _parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = command_parser('export')
    parser.add_argument(
        'config', metavar='CONFIG', help="a config, the name of one of mmvim's, or the file of a published classifier"
    )
    parser.add_argument(
        '--cfg-options', nargs='+', action=OptionsAction, metavar='KEY=VALUE', help='override settings of the config'
    )
    parser.add_argument('--checkpoint', metavar='FILE', help="of the config's model. Defaults to untrained weights")
    parser.add_argument('--out', required=True, metavar='FILE', help='what to write, FILE.onnx or FILE.pt2')
    parser.add_argument(
        '--part', choices=PARTS, default='model', help='the whole model or its backbone. Defaults to model'
    )
    parser.add_argument(
        '--result',
        choices=RESULTS,
        help='of a segmentor: the class of each pixel, or the score of each class. Defaults to labels',
    )
    parser.add_argument('--arch', help='of a published classifier. Defaults to what the file is')
    parser.add_argument('--opset', type=int, help='of ONNX, 18 to 23. Defaults to 18')
    parser.add_argument(
        '--fixed-size',
        type=int,
        nargs=2,
        metavar=('H', 'W'),
        help='one picture of this size alone; OpenVINO is faster so. Defaults to any number of pictures of any size',
    )
    parser.add_argument('--chunk', type=int, help='steps of a scan that an ONNX file computes at once. Defaults to 16')
    parser.add_argument(
        '--tolerance',
        type=float,
        default=1e-4,
        help='largest difference from the model, in standard deviations of its output. Defaults to 1e-4',
    )
    parser.add_argument(
        '--images', nargs='+', default=[], metavar='IMAGE', help='pictures to compare on. Defaults to made-up ones'
    )
    parser.add_argument(
        '--int8',
        action='store_true',
        help='write a checkpoint instead, with 8-bit weights, that mmvim test and the others read like any; --out '
        'FILE.pth',
    )
    args = parser.parse_args(argv)
    if args.fixed_size is not None and min(args.fixed_size) < 1:
        parser.error(f'--fixed-size {" ".join(map(str, args.fixed_size))} is not two positive numbers')
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Build, export, compare and tell.

    Args:
        argv: The command line. Defaults to None, ``sys.argv``.

    Raises:
        UserError: If the command, the config or the checkpoint is wrong, if a package is missing, or if the model
            cannot be exported.
    """
    args = _parse_args(argv)
    if args.int8:
        print(write_int8(args))
        return
    suffix = Path(args.out).suffix
    with deploy_errors():
        if suffix not in SUFFIXES_OUT:
            raise DeployError(f'--out {args.out} ends neither in .onnx nor in .pt2', 'give a name that does')
        if suffix == '.onnx':
            check_packages(*EXPORT_PACKAGES)
            from mmvim.deploy.export import OPSETS

            if args.opset is not None and args.opset not in OPSETS:  # before anything is built
                remedy = f'give one of {OPSETS[0]} to {OPSETS[-1]}'
                raise DeployError(f'--opset {args.opset} is not supported', remedy)
        elif args.opset is not None or args.chunk is not None:
            option = '--chunk' if args.opset is None else '--opset'
            raise DeployError(f'{option} is of ONNX files, and --out is {args.out}', 'leave it out')
        subject = _published(args) if _is_weights(args.config) else _configured(args)
        if args.fixed_size is not None:
            subject = subject._replace(size=tuple(args.fixed_size))
        exported = _export(subject, args)
    kind = f'opset {args.opset or 18}' if suffix == '.onnx' else f'PyTorch {torch.__version__}'
    print(f'{exported.file}: {exported.size / 1e6:.1f} MB, {kind}')
    for (height, width), error in exported.errors.items():
        print(f'  {height} x {width}: differs by {error:.1e} {_measure(subject)}')


def _export(subject: Subject, args: argparse.Namespace) -> 'Exported':
    """Export what the command line says."""
    from mmvim.deploy import export_onnx, export_program

    same: dict[str, Any] = {
        'sizes': three_sizes(subject.size),
        'metadata': subject.metadata,
        'dynamic': args.fixed_size is None,
        'tolerance': args.tolerance,
        'pictures': [_as_input(image, subject.metadata) for image in args.images],
    }
    if Path(args.out).suffix == '.pt2':
        return export_program(subject.model, args.out, **same)
    own = {name: getattr(args, name) for name in ('opset', 'chunk') if getattr(args, name) is not None}
    return export_onnx(subject.model, args.out, outputs=subject.outputs, **same, **own)


class deploy_errors:
    """Raise errors of :mod:`mmvim.deploy` inside the block as :class:`UserError`.

    Examples:
        >>> from mmvim.cli import UserError
        >>> from mmvim.cli.commands.export import deploy_errors
        >>> from mmvim.deploy import DeployError
        >>> try:
        ...     with deploy_errors():
        ...         raise DeployError('opset 9 is not supported', 'give 18')
        ... except UserError as error:
        ...     print(error)
        opset 9 is not supported; give 18
    """

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, DeployError):
            status = ENVIRONMENT if isinstance(error, MissingPackageError) else USAGE
            raise UserError(error.problem, error.remedy, status) from error


def three_sizes(size: tuple[int, int]) -> list[tuple[int, int]]:
    """Return a size, a wider one and a lower one, to compare at.

    Args:
        size: Height and width.

    Examples:
        >>> from mmvim.cli.commands.export import three_sizes
        >>> three_sizes((512, 512))
        [(512, 512), (512, 640), (384, 512)]
    """
    height, width = size
    step = 32 if min(size) > 64 else 8
    return [size, (height, width + max(step, width // 4)), (max(step, height - max(step, height // 4)), width)]


def _measure(subject: Subject) -> str:
    return 'of the pixels' if subject.metadata['mmvim.task'] == 'labels' else "of the output's standard deviation"


def _is_weights(name: str) -> bool:
    return name.endswith(_WEIGHTS) or (is_remote(name) and not name.endswith(SUFFIXES))


def _as_input(image: str, metadata: dict[str, str]) -> torch.Tensor:
    """Return a picture as the exported model gets it, (1, 3, H, W)."""
    import json

    from mmvim.deploy.predict import normalise, read_picture, resize

    try:
        picture = read_picture(image)
    except ValueError as error:
        problem, _, remedy = str(error).partition('; ')
        raise DeployError(problem, remedy) from error
    recipe = json.loads(metadata['mmvim.preprocessing'])
    return torch.from_numpy(normalise(resize(picture, recipe['resize']), recipe))[None]


def _published(args: argparse.Namespace) -> Subject:
    """Return the classifier of a published file."""
    for option in ('cfg_options', 'checkpoint', 'result'):
        if getattr(args, option) is not None:
            raise UserError(
                f'--{option.replace("_", "-")} is an option of a config, and {args.config} is a file of weights',
                'leave it out',
            )
    with checkpoint_errors():
        found = checkpoints.read(args.config, arch=args.arch)
        view = checkpoints.preprocessing(found)
        model = checkpoints.build_classifier(found)
    assert found.head is not None  # build_classifier has seen to it
    resize = {
        'short': int(view.img_size / view.crop_pct),
        'crop': view.img_size,
        'squash': view.crop_mode == 'squash',
        'interpolation': view.interpolation,
    }
    preprocessing = {**IMAGENET, 'resize': resize}
    size = (view.img_size, view.img_size)
    if args.part == 'backbone':
        return _features(model.get_submodule('backbone'), preprocessing, size)
    metadata = as_metadata(mmvim.__version__, 'classes', preprocessing, _imagenet(found.head['num_classes']))
    return Subject(model, ['scores'], metadata, size)


def _imagenet(number: int) -> list[str] | None:
    """Return the names of ImageNet's classes, if that is what they are and somebody here knows them."""
    if number != 1000:
        return None
    try:
        from mmpretrain.datasets.categories import IMAGENET_CATEGORIES
    except ImportError:
        return None
    return list(IMAGENET_CATEGORIES)


def _configured(args: argparse.Namespace) -> Subject:
    """Return the model of a config."""
    if args.arch is not None:
        raise UserError('--arch is an option of a published classifier', 'set it in the config: --cfg-options')
    cfg = load_config(args.config, args.cfg_options)
    check_compiled_ops(cfg)
    model, meta = build_model(cfg), {}
    if args.checkpoint is None:
        warn('no --checkpoint: the weights are untrained')
    else:
        meta = _load(args.checkpoint, model)
    preprocessing = config_preprocessing(cfg)
    kind = _kind(cfg, model)
    if args.part == 'backbone' or kind == 'backbone':
        if args.result is not None:
            raise UserError(f'--result {args.result} is of a whole segmentor', 'leave it out')
        backbone = model if kind == 'backbone' else model.get_submodule('backbone')
        return _features(backbone, preprocessing, _size(cfg))
    classes, palette = _classes(cfg, meta)
    if kind == 'classifier':
        if args.result is not None:
            raise UserError(f'--result {args.result} is of a segmentor, and this is a classifier', 'leave it out')
        metadata = as_metadata(mmvim.__version__, 'classes', preprocessing, classes or _imagenet(_number(model)))
        return Subject(Classifier(model), ['scores'], metadata, _size(cfg))
    task = args.result or 'labels'
    segmentor = Segmentor(model, labels=task == 'labels')
    return Subject(segmentor, [task], as_metadata(mmvim.__version__, task, preprocessing, classes, palette), _size(cfg))


def _features(backbone: nn.Module, preprocessing: dict[str, Any], size: tuple[int, int]) -> Subject:
    return Subject(Features(backbone), None, as_metadata(mmvim.__version__, 'features', preprocessing), size)


def _kind(cfg: Config, model: nn.Module) -> str:
    """Return what a model is; a detector, for want of a translation of its heads, must be exported by its backbone."""
    if not hasattr(model, 'backbone'):
        return 'backbone'
    return 'classifier' if type(model).__name__ == 'ImageClassifier' else 'segmentor'


def _load(file: str, model: nn.Module) -> dict[str, Any]:
    """Load a checkpoint, and return what it says of its data set."""
    path = local_checkpoint(file)
    if path is None:
        raise UserError(f'--checkpoint {file} cannot be fetched', 'download it, and give the file')
    checkpoint = read_checkpoint(path, '--checkpoint')
    check_fit(model, checkpoint, path, '--checkpoint', complete=True)  # which loads it
    meta = checkpoint.get('meta')
    return (meta.get('dataset_meta') or {}) if isinstance(meta, dict) else {}


def _classes(cfg: Config, meta: dict[str, Any]) -> tuple[Sequence[str] | None, Sequence | None]:
    """Return names and colours of the classes: as the checkpoint, the config or the data set has them."""
    dataset = ((cfg.get('test_dataloader') or cfg.get('val_dataloader') or {}).get('dataset')) or {}
    own = {**_metainfo_of_class(dataset, cfg.get('default_scope')), **(dataset.get('metainfo') or {})}
    for found in (meta, own):
        if found.get('classes') is not None:
            return found['classes'], found.get('palette')
    return None, None


def _metainfo_of_class(dataset: dict, scope: str | None) -> dict[str, Any]:
    found: list[Callable] = find_types(dataset, scope) if dataset else []
    return dict(getattr(found[0], 'METAINFO', {})) if found else {}


def _number(model: nn.Module) -> int:
    return int(getattr(getattr(model, 'head', None), 'num_classes', 0) or 0)


def _size(cfg: Config) -> tuple[int, int]:
    """Return height and width of a config's usual pictures."""
    from mmvim.analysis.flops import default_shape

    resize = config_preprocessing(cfg)['resize'] or {}
    if resize.get('crop'):
        return (resize['crop'], resize['crop'])
    side = cfg.model.get('img_size') or (cfg.model.get('backbone') or {}).get('img_size')
    if 'decode_head' not in cfg.model and side:
        return (side, side) if isinstance(side, int) else tuple(side)
    return default_shape(cfg)
