"""Large-scale jittering and its padding, and the evaluator, on the full recipe's own pipelines."""

import json

import cv2
import numpy as np
import pytest
import small_detectors as small
import torch
from mmengine.registry import init_default_scope

VITDET = 'vim/vim-tiny_vitdet-mask-rcnn_4xb16-amp-lsj-100e_coco.py'
COLOURS = {1: (200, 40, 40), 2: (40, 200, 40), 3: (40, 40, 200)}  # RGB, by category id
SIZE = 256  # a quarter of the recipe's


@pytest.fixture
def coloured(tmp_path):
    """Two pictures of three rectangles and a ring on grey; an object's category is its colour."""
    (tmp_path / 'train2017').mkdir()
    (tmp_path / 'annotations').mkdir()
    images, annotations = [], []
    for index, (height, width) in enumerate([(240, 320), (300, 200)]):
        picture = np.full((height, width, 3), 120, np.uint8)
        boxes = {1: (20, 30, 90, 60), 2: (110, 120, 70, 100), 3: (30, 150, 50, 60)}
        for category, (x, y, w, h) in boxes.items():
            picture[y : y + h, x : x + w] = COLOURS[category][::-1]
            annotations.append(
                {
                    'id': len(annotations) + 1,
                    'image_id': index,
                    'category_id': category,
                    'iscrowd': 0,
                    'bbox': [x, y, w, h],
                    'area': w * h,
                    'segmentation': [[x, y, x + w, y, x + w, y + h, x, y + h]],
                }
            )
        cv2.imwrite(str(tmp_path / f'train2017/{index}.png'), picture)
        images.append({'id': index, 'file_name': f'{index}.png', 'height': height, 'width': width})
    categories = [{'id': i, 'name': name} for i, name in enumerate(('person', 'bicycle', 'car'), 1)]
    (tmp_path / 'annotations/instances_train2017.json').write_text(
        json.dumps({'images': images, 'annotations': annotations, 'categories': categories})
    )
    return tmp_path


def build(cfg, root):
    """The training set and the preprocessor of a recipe, at a quarter of its size."""
    from mmdet.registry import DATASETS, MODELS

    init_default_scope('mmdet')
    for part in small.PARTS[:2]:
        small.scale_pipeline(cfg[f'{part}_dataloader'].dataset.pipeline, 1 / 4)
    cfg.model.data_preprocessor.pad_size_divisor //= 4
    dataset = DATASETS.build({**cfg.train_dataloader.dataset, 'data_root': str(root)})
    return dataset, MODELS.build(cfg.model.data_preprocessor)


def test_masks_and_boxes_follow_the_picture(load, coloured):
    """Jittered, cut, normalised and padded, a mask lies on its object's colour and a box around its mask."""
    dataset, preprocess = build(load(VITDET), coloured)
    np.random.seed(1)
    torch.manual_seed(0)
    mean, std = preprocess.mean.flatten(), preprocess.std.flatten()
    areas, flips, negative = [], set(), 0
    for _ in range(8):
        batch = [dataset[i] for i in range(2)]
        data = preprocess({key: [item[key] for item in batch] for key in batch[0]}, training=True)
        assert data['inputs'].shape == (2, 3, SIZE, SIZE)
        for pixels, sample in zip(data['inputs'], data['data_samples'], strict=True):
            height, width = sample.img_shape
            assert max(height, width) <= SIZE and sample.batch_input_shape == (SIZE, SIZE)
            areas.append(height * width)
            flips.add(sample.flip)
            assert not pixels[:, height:].any() and not pixels[:, :, width:].any(), 'padding is zero after normalising'
            assert pixels[:, :height, :width].abs().min() > 0
            colours = pixels.permute(1, 2, 0) * std + mean
            objects = sample.gt_instances
            negative += len(objects) == 0
            masks = objects.masks.masks
            assert masks.shape[1:] == (SIZE, SIZE) and not masks[:, height:].any() and not masks[:, :, width:].any()
            for mask, box, label in zip(masks, objects.bboxes, objects.labels, strict=True):
                rows, columns = np.nonzero(mask)
                around = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                assert np.abs(np.array(around) - box.numpy()).max() <= 1
                inner = cv2.erode(mask, np.ones((7, 7), np.uint8), borderValue=0).astype(bool)  # away from the blur
                if inner.any():
                    expected = torch.tensor(COLOURS[int(label) + 1], dtype=torch.float)
                    assert (colours[inner] - expected).abs().max() < 2
            # and nothing of an object's colour lies outside of the masks
            for label in {int(item) for item in objects.labels}:
                outside = np.ones((SIZE, SIZE), bool)
                for mask in masks[objects.labels.numpy() == label]:
                    outside &= ~cv2.dilate(mask, np.ones((7, 7), np.uint8)).astype(bool)
                distance = (colours - torch.tensor(COLOURS[label + 1], dtype=torch.float)).abs().amax(-1)
                assert not (distance.numpy() < 8)[outside].any()
    assert flips == {True, False} and max(areas) > 10 * min(areas), 'many scales'


def test_a_crop_beside_every_object_is_kept(load, coloured):
    """What the crop leaves of nothing is background, not an endless search for another picture."""
    file = coloured / 'annotations/instances_train2017.json'
    content = json.loads(file.read_text())
    for item in content['annotations']:  # specks in a corner, which a crop out of twice the size often misses
        item.update(bbox=[2, 2, 2, 2], area=4, segmentation=[[2, 2, 4, 2, 4, 4, 2, 4]])
    file.write_text(json.dumps(content))
    cfg = load(VITDET)
    cfg.train_dataloader.dataset.pipeline[3].ratio_range = (2.0, 2.0)
    dataset, preprocess = build(cfg, coloured)
    np.random.seed(0)
    samples = [dataset[0] for _ in range(6)]
    counts = [len(item['data_samples'].gt_instances) for item in samples]
    assert 0 in counts
    data = preprocess({key: [item[key] for item in samples[:2]] for key in samples[0]}, training=True)
    assert data['data_samples'][0].gt_instances.masks.masks.shape[1:] == (SIZE, SIZE)


def test_test_pictures_fit_the_square(load, coloured):
    from mmdet.registry import DATASETS

    cfg = load(VITDET)
    _, preprocess = build(cfg, coloured)
    dataset = DATASETS.build(
        {
            **cfg.val_dataloader.dataset,
            'data_root': str(coloured),
            'data_prefix': {'img': 'train2017/'},
            'ann_file': 'annotations/instances_train2017.json',
        }
    )
    for index, shape in enumerate([(192, 256), (256, 171)]):
        item = dataset[index]
        data = preprocess({key: [value] for key, value in item.items()}, training=False)
        sample = data['data_samples'][0]
        assert sample.img_shape == shape and data['inputs'].shape == (1, 3, SIZE, SIZE)
        assert not data['inputs'][:, :, shape[0] :].any() and not data['inputs'][:, :, :, shape[1] :].any()


def perfect_predictions(dataset):
    """What a detector would return that knows the annotations."""
    from mmdet.structures.mask import PolygonMasks

    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        objects = [item for item in info['instances'] if not item['ignore_flag']]
        height, width = info['height'], info['width']
        masks = np.zeros((len(objects), height, width), bool)
        for mask, item in zip(masks, objects, strict=True):
            polygons = PolygonMasks([[np.array(part) for part in item['mask']]], height, width)
            mask[:] = polygons.to_bitmap().masks[0]
        yield {
            'img_id': info['img_id'],
            'ori_shape': (height, width),
            'pred_instances': {
                'bboxes': torch.tensor([item['bbox'] for item in objects]).reshape(-1, 4),
                'labels': torch.tensor([item['bbox_label'] for item in objects], dtype=torch.long),
                'scores': torch.ones(len(objects)),
                'masks': torch.from_numpy(masks),
            },
        }


@pytest.mark.parametrize('source', ['demo_coco', 'real_coco'])
def test_the_truth_scores_one(source, request, load):
    """The annotations, fed through the recipe's own data set and evaluator, reach AP 1.0; shifted boxes do not."""
    from mmdet.registry import DATASETS, METRICS

    root = request.getfixturevalue(source)
    cfg = load(VITDET)
    init_default_scope('mmdet')
    dataset = DATASETS.build({**cfg.val_dataloader.dataset, 'data_root': str(root)})
    scores = {}
    for name, shift in {'truth': 0, **({'shifted': 6} if source == 'demo_coco' else {})}.items():
        metric = METRICS.build({**cfg.val_evaluator, 'ann_file': str(root / small.VAL)})
        metric.dataset_meta = dataset.metainfo
        predictions = list(perfect_predictions(dataset))
        for item in predictions:
            item['pred_instances']['bboxes'] = item['pred_instances']['bboxes'] + shift
        metric.process({}, predictions)
        scores[name] = metric.evaluate(len(dataset))
    assert scores['truth']['coco/bbox_mAP'] == scores['truth']['coco/segm_mAP'] == 1.0
    if 'shifted' in scores:
        assert scores['shifted']['coco/bbox_mAP'] < 0.9 and scores['shifted']['coco/segm_mAP'] == 1.0
