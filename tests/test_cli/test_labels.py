"""Which numbers of a data set are labels of which head, and which are not; its bands and its boxes."""

import re
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.model import ImgDataPreprocessor
from torch import nn

from mmvim.cli import UserError
from mmvim.cli.labels import check_samples


class Samples:
    """A data set of one sample."""

    def __init__(self, sample, metainfo=None):
        self.sample, self.metainfo = sample, metainfo or {}

    def __len__(self):
        return 1

    def get_data_info(self, index):
        return self.sample

    def __getitem__(self, index):
        return self.sample


class Head(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.num_classes = num_classes


def detector(num_classes, **more):
    model = nn.Module()
    model.roi_head = nn.Module()
    model.roi_head.bbox_head = nn.ModuleList([Head(num_classes), Head(num_classes)])
    for name, part in more.items():
        setattr(model, name, part)
    return model


def segmentor(num_classes):
    model = nn.Module()
    model.decode_head = Head(num_classes)
    return model


def look(model, metainfo=None, **sample):
    dataset = {'type': Samples, 'sample': sample, 'metainfo': metainfo}
    return check_samples(
        Config({'default_scope': 'mmengine', 'test_dataloader': {'dataset': dataset}}), model, ('test',)
    )


def mask(*labels):
    return np.array([labels], np.uint8)


def boxes(*labels):
    return np.array(labels, np.int64)


def test_panoptic_masks_are_not_those_of_the_boxes():
    """Things have boxes; the mask holds things and stuff, and belongs to another head."""
    things = {'classes': ('cat', 'dog', 'sky'), 'thing_classes': ('cat', 'dog')}
    (line,) = look(detector(2), things, gt_seg_map=mask(0, 1, 2, 255), gt_bboxes_labels=boxes(0, 1))
    assert line == 'test_dataloader.dataset: 1 of 1 samples looked at, labels 0, 1'
    with pytest.raises(UserError, match=r'num_classes=3, and test_dataloader.dataset has 2 classes'):
        look(detector(3), things, gt_bboxes_labels=boxes(0, 1))


def test_boxes_that_are_ignored_have_any_label():
    flags = np.array([False, True])
    look(detector(2), gt_bboxes_labels=boxes(1, -1), gt_ignore_flags=flags)
    with pytest.raises(UserError, match=r'has the label -1, and model.roi_head.bbox_head.0.num_classes=2'):
        look(detector(2), gt_bboxes_labels=boxes(1, -1))


def test_classes_told_in_words_bound_no_label():
    look(detector(2, language_model=nn.Identity()), gt_bboxes_labels=boxes(7))


def test_one_channel_has_a_background():
    look(segmentor(1), gt_seg_map=mask(0, 1, 255))
    with pytest.raises(UserError, match=r'has the label 2, and model.decode_head.num_classes=1 leaves 0 to 1'):
        look(segmentor(1), gt_seg_map=mask(0, 1, 2))
    with pytest.raises(UserError, match='leaves 0 to 0'):
        look(detector(1), gt_bboxes_labels=boxes(1))


def test_colours_are_no_labels():
    with pytest.raises(UserError, match=r'is a colour picture of shape \(1, 2, 3\)'):
        look(segmentor(2), gt_seg_map=np.zeros((1, 2, 3), np.uint8))


def test_every_head_of_a_cascade_is_compared():
    model = segmentor(3)
    model.decode_head = nn.ModuleList([Head(3), Head(2)])
    with pytest.raises(UserError, match=r'has the label 2, and model.decode_head.1.num_classes=2'):
        look(model, gt_seg_map=mask(0, 2))


def pictures(bands, height=8, width=16):
    return np.zeros((height, width, bands), np.uint8)


@pytest.mark.parametrize(
    ('flag', 'coordinates', 'bad'),
    [
        (False, (0, 0, 16, 8), False),
        (False, (-4, 2, 4, 20), False),  # partly outside, as a crop leaves it
        (False, (3, 2, 3, 6), True),
        (False, (3, 6, 5, 2), True),
        (False, (16, 0, 20, 8), True),
        (False, (-4, -4, 0, 4), True),
        (False, (2, 8, 6, 12), True),
        (True, (3, 2, 3, 6), False),
    ],
)
def test_boxes_without_an_area(flag, coordinates, bad, capsys):
    """Of data sets that hand on what their files say."""
    found = np.array([(1, 1, 4, 4), coordinates], np.float32)
    flags = np.array([False, flag])
    look(detector(2), img=pictures(3), gt_bboxes=found, gt_bboxes_labels=boxes(0, 1), gt_ignore_flags=flags)
    warned = capsys.readouterr().err
    assert ('1 of the 2 boxes of test_dataloader.dataset' in warned) == bad
    assert warned.count('warning') == bad


class Grows(Samples):
    """A data set whose pipeline makes the bands `made` of its pictures; None hides how many."""

    def __init__(self, made, **options):
        super().__init__(**options)
        self.made = made

    def __getitem__(self, index):
        return {'inputs': torch.zeros(self.made, 8, 16)} if self.made else {}


@pytest.mark.parametrize(('made', 'fits'), [(5, True), (3, False), (None, True)])
@pytest.mark.parametrize('thorough', [False, True])
def test_bands_are_those_that_the_whole_pipeline_makes(made, fits, thorough):
    model = segmentor(2)
    model.backbone = nn.Conv2d(5, 8, 4, 4)
    dataset = {'type': Grows, 'made': made, 'sample': {'img': pictures(3)}}
    cfg = Config({'default_scope': 'mmengine', 'test_dataloader': {'dataset': dataset}})
    with nullcontext() if fits else pytest.raises(UserError, match=r'has 3 bands, and model\.backbone takes 5'):
        check_samples(cfg, model, ('test',), thorough)


class Folds(nn.Module):
    """A stem that makes four channels of each band, as YOLOX's does."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(12, 8, 1)

    def forward(self, x):
        return (self.conv(nn.functional.pixel_unshuffle(x, 2)),)


def test_a_stem_may_fold_pictures():
    model = segmentor(2)
    model.backbone = Folds()
    look(model, img=pictures(3))
    with pytest.raises(UserError, match=r'has 4 bands, and model\.backbone takes 12'):
        look(model, img=pictures(4))


@pytest.mark.parametrize(
    ('bands', 'options', 'words'),
    [
        (1, {'mean': [1], 'std': [1], 'bgr_to_rgb': True}, 'has 1 band, and bgr_to_rgb of model.data_preprocessor'),
        (5, {'mean': [1] * 3, 'std': [1] * 3}, 'has 5 bands, and model.data_preprocessor has mean and std for 3'),
        (5, {'bgr_to_rgb': True}, 'warning: .*has 5 bands, and model.data_preprocessor keeps 3'),
        (3, {'mean': [1], 'std': [1]}, ''),
    ],
)
def test_bands_of_a_preprocessor(bands, options, words, capsys):
    model = segmentor(2)
    model.backbone, model.data_preprocessor = nn.Conv2d(3, 8, 4, 4), ImgDataPreprocessor(**options)
    refused = bool(words) and not words.startswith('warning')
    with pytest.raises(UserError, match=words) if refused else nullcontext():
        look(model, img=pictures(bands))
    assert re.fullmatch(words + '.*' if words and not refused else '', capsys.readouterr().err.strip())


@pytest.mark.parametrize('classes', [1, 2, 5])
def test_a_foreground_drawn_in_white_is_warned_of(classes, capsys):
    """Raw masks of 0 and 255, without reduce_zero_label: 255 is ignored, and nothing but the background is left."""
    (line,) = look(segmentor(classes), gt_seg_map=mask(0, 0, 255, 255))
    assert line == 'test_dataloader.dataset: 1 of 1 samples looked at, labels 0, 255'
    (said,) = capsys.readouterr().err.splitlines()
    assert 'hold 0, 255, and 255 is ignored: class 0 alone can be learned' in said
    assert 'write its number into the masks' in said


@pytest.mark.parametrize(
    ('classes', 'labels'),
    [(2, (0, 1)), (2, (0, 1, 255)), (1, (0, 1, 255)), (1, (1, 255)), (2, (0,))],
    ids=['no white', 'void beside both', 'void beside one channel', 'the foreground and void', 'one class'],
)
def test_other_masks_are_not(classes, labels, capsys):
    look(segmentor(classes), gt_seg_map=mask(*labels))
    assert not capsys.readouterr().err


def test_white_that_reduce_zero_label_has_moved():
    """Of 0 and 255 it makes 255 and 254, which no head has."""
    with pytest.raises(UserError, match=r'has the label 254, and model.decode_head.num_classes=2 leaves 0 to 1'):
        look(segmentor(2), gt_seg_map=mask(255, 254))


def test_white_that_the_head_does_not_ignore():
    model = segmentor(2)
    model.decode_head.ignore_index = 250
    with pytest.raises(UserError, match=r'has the label 255, and model.decode_head.num_classes=2 leaves 0 to 1'):
        look(model, gt_seg_map=mask(0, 255))


class Fields(Samples):
    """A data set of pictures with so many bands."""

    def __init__(self, bands):
        super().__init__({})
        self.bands = bands

    def __len__(self):
        return len(self.bands)

    def get_data_info(self, index):
        return {'img_path': f'field{index}', 'img': pictures(self.bands[index])}

    def __getitem__(self, index):
        return {'inputs': torch.zeros(self.bands[index], 8, 8)}


def look_through(*bands, thorough=True):
    model = segmentor(2)
    cfg = Config({'default_scope': 'mmengine', 'test_dataloader': {'dataset': {'type': Fields, 'bands': bands}}})
    return check_samples(cfg, model, ('test',), thorough)


def test_pictures_of_other_bands_than_the_rest():
    assert look_through(5, 5) == look_through(3, 3)
    with pytest.raises(UserError, match=r'^field1 has 4 bands, and field0 5; give it'):
        look_through(5, 4)


def test_loaded_pictures_may_differ():
    """What follows in the pipeline may make them alike, and has not run."""
    assert look_through(5, 4, thorough=False) == look_through(3, 3)
