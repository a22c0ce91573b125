"""Augmentations beside their plain twins; their answers in mmdetection are in test_mmdet3_pipelines.py."""

import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset
from mmengine.registry import init_default_scope
from reference import mmdet3_cases as cases

from mmdet.datasets import MultiImageMixDataset
from mmdet.datasets.seeding import SeededDataset, SeededIndex
from mmdet.datasets.transforms import Albu, CopyPaste, Expand, MinIoURandomCrop, PhotoMetricDistortion, RandomAffine
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks, PolygonMasks

ROUND = dict(
    type='BboxParams',
    format='pascal_voc',
    label_fields=['gt_bboxes_labels', 'gt_ignore_flags'],
    filter_lost_elements=True,
)


def sample(boxes=((10, 20, 40, 50), (60, 5, 90, 70)), height=80, width=100, seed=0):
    """An image of noise, whose masks are the boxes."""
    masks = np.zeros((len(boxes), height, width), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes):
        mask[y1:y2, x1:x2] = 1
    return dict(
        img_path='made up',
        img=np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8),
        img_shape=(height, width),
        gt_bboxes=HorizontalBoxes(np.array(boxes, np.float32).reshape(-1, 4)),
        gt_bboxes_labels=np.arange(len(boxes)),
        gt_ignore_flags=np.zeros(len(boxes), bool),
        gt_masks=BitmapMasks(masks, height, width),
    )


def assert_masks_fill_boxes(results):
    """Each mask is its box, in whole pixels; labels say which object it was."""
    own = results['gt_masks'].get_bboxes().tensor
    torch.testing.assert_close(own, results['gt_bboxes'].tensor, rtol=0, atol=1)


def test_expand_moves_everything_alike():
    np.random.seed(0)
    for _ in range(10):
        one, results = sample(), sample()
        results = Expand(mean=(1, 2, 3), ratio_range=(1.5, 3), prob=1)(results)
        assert_masks_fill_boxes(results)
        matrix = results['homography_matrix']
        left, top = matrix[:2, 2].astype(int)
        assert (results['img'][top : top + 80, left : left + 100] == one['img']).all()
        outside = np.ones(results['img_shape'], bool)
        outside[top : top + 80, left : left + 100] = False
        assert (results['img'][outside] == (3, 2, 1)).all()  # to_rgb: the image is BGR
    assert Expand(prob=0)(sample())['img_shape'] == (80, 100)
    with pytest.raises(ValueError, match='seg_ignore_label is needed'):
        Expand(prob=1)(dict(sample(), gt_seg_map=np.zeros((80, 100), np.uint8)))
    results = Expand(prob=1, seg_ignore_label=255)(dict(sample(), gt_seg_map=np.zeros((80, 100), np.uint8)))
    assert (results['gt_seg_map'] == 0).sum() == 8000 and results['gt_seg_map'].shape == results['img_shape']


def test_expanded_masks_are_the_same_in_every_form():
    polygons = PolygonMasks([[np.array([10.0, 20, 40, 20, 40, 50, 10, 50])]], 80, 100)
    parts, bitmaps = polygons.to_bitmap(), BitmapMasks(polygons.to_ndarray(), 80, 100)
    for masks in (parts, bitmaps, polygons):
        larger = masks.expand(200, 160, 30, 50)
        assert (larger.height, larger.width) == (200, 160)
        expected = np.zeros((1, 200, 160), np.uint8)
        expected[:, 30:110, 50:150] = bitmaps.masks
        assert (larger.to_ndarray() == expected).all()


def test_min_iou_crop_keeps_its_promise():
    np.random.seed(0)
    sizes = set()
    for _ in range(60):
        results = MinIoURandomCrop(min_ious=(0.3,))(sample())
        height, width = results['img_shape']
        assert results['img'].shape[:2] == (height, width) and 0.45 <= height / width <= 2.2
        assert len(results['gt_bboxes']) and len(results['gt_masks']) == len(results['gt_bboxes_labels'])
        assert_masks_fill_boxes(results)
        sizes.add((height, width))
    assert len(sizes) > 20 and (80, 100) in sizes
    assert len(MinIoURandomCrop()(sample(boxes=()))['gt_bboxes']) == 0  # an image without objects


@pytest.mark.parametrize('move', [(0, 0), (25, -10), (-30, 40), (500, 0)])
def test_affine_by_whole_pixels(move, monkeypatch):
    """Nothing is drawn but the way, which is said here."""
    drawn = iter([0, 1, 0, 0, move[0] / 100, move[1] / 80])
    monkeypatch.setattr(np.random, 'uniform', lambda *args: next(drawn))
    one, results = sample(), RandomAffine(border_val=(0, 0, 0))(sample())
    x, y = move
    expected = np.zeros((80 + 2 * 600, 100 + 2 * 600, 3), np.uint8)
    expected[600 + y : 680 + y, 600 + x : 700 + x] = one['img']
    assert (results['img'] == expected[600:680, 600:700]).all()
    assert_masks_fill_boxes(results)
    assert len(results['gt_bboxes']) == (0 if x == 500 else 2)
    assert len(results['gt_masks']) == len(results['gt_bboxes_labels']) == len(results['gt_bboxes'])


def test_affine_masks_turn_with_the_image():
    """A mask drawn into the image, and warped with it, is where the mask is."""
    np.random.seed(1)
    number = 0
    for _ in range(30):
        results = sample()
        results['img'][...] = results['gt_masks'].masks[0][..., None] * 255
        results = RandomAffine(max_rotate_degree=40, border_val=(0, 0, 0))(results)
        if 0 in results['gt_bboxes_labels']:
            mask = results['gt_masks'].masks[list(results['gt_bboxes_labels']).index(0)]
            drawn = results['img'][..., 0] > 127
            assert (mask.astype(bool) ^ drawn).sum() <= 0.15 * drawn.sum() + 8
            number += 1
    assert number > 20


@pytest.mark.parametrize(
    'make, says',
    [
        (lambda: RandomAffine(max_translate_ratio=1.5), 'max_translate_ratio must be from 0 to 1'),
        (lambda: RandomAffine(scaling_ratio_range=(2, 1)), 'must be .least, greatest., above 0'),
        (lambda: RandomAffine(scaling_ratio_range=(0, 1)), 'must be .least, greatest., above 0'),
        (lambda: RandomAffine()(dict(sample(), gt_masks=PolygonMasks([[], []], 80, 100))), 'must be bitmaps'),
        (lambda: CopyPaste()(sample()), 'needs one other image, got 0; it stands in the pipeline of a MultiImage'),
        (
            lambda: CopyPaste()(dict(sample(), mix_results=[sample(height=90)])),
            r'must have one size, got 100 x 80 and 100 x 90 \(width x height\)',
        ),
        (
            lambda: CopyPaste()(dict(sample(), mix_results=[dict(sample(), gt_masks=None)])),
            'needs masks as bitmaps, .*paste_by_box=True',
        ),
        (lambda: Albu([dict(type='RandomBrightnesContrast')]), "no transform 'RandomBrightnesContrast'; nearest: 'Ra"),
        (lambda: Albu([dict(type='from_dict')]), "no transform 'from_dict'"),
        (lambda: Albu([dict(type=print)]), 'no transform <built-in function print>'),
        (lambda: MultiImageMixDataset(Images(), 'x'), "pipeline must be a list of dicts, got 'x'"),
    ],
)
def test_messages(make, says):
    init_default_scope('mmdet')
    with pytest.raises((ValueError, TypeError), match=says):
        make()


def test_photometric_is_cut_nowhere_and_says_what_it_is():
    np.random.seed(3)
    made = [PhotoMetricDistortion()(sample())['img'] for _ in range(20)]
    assert all(image.dtype == np.float32 and image.shape == (80, 100, 3) for image in made)
    assert max(image.max() for image in made) > 255 and not any(np.isnan(image).any() for image in made)
    assert 'hue_delta=18' in repr(PhotoMetricDistortion())


def test_albu_without_objects_and_without_bbox_params():
    flip = [dict(type='HorizontalFlip', p=1.0)]
    one = sample()
    results = Albu(flip)(sample())
    assert (results['img'] == one['img'][:, ::-1]).all()
    assert (results['gt_masks'].masks == one['gt_masks'].masks[:, :, ::-1]).all()
    assert (results['gt_bboxes'].tensor == one['gt_bboxes'].tensor).all()  # it was not asked for
    results = Albu(flip, bbox_params=ROUND)(sample())
    assert_masks_fill_boxes(results)
    empty = Albu(flip, bbox_params=ROUND)(sample(boxes=()))
    assert len(empty['gt_bboxes']) == len(empty['gt_masks']) == 0 and empty['gt_masks'].height == 80
    assert Albu(flip, bbox_params=ROUND, skip_img_without_anno=True)(sample(boxes=())) is None
    crop = [dict(type='Crop', x_min=55, y_min=0, x_max=100, y_max=80, p=1.0)]
    left = Albu(crop, bbox_params=ROUND)(sample())
    assert left['gt_bboxes_labels'].tolist() == [1] and left['gt_bboxes_labels'].dtype == np.int64
    assert left['gt_ignore_flags'].dtype == bool and left['img_shape'] == (80, 45)
    assert_masks_fill_boxes(left)


def test_all_boxes_of_data_without_masks_are_pasted():
    one, other = sample(), sample(boxes=((0, 0, 30, 30),), seed=1)
    del one['gt_masks'], other['gt_masks']
    results = CopyPaste(selected=False, paste_by_box=True)(dict(one, mix_results=[other]))
    assert (results['img'][:30, :30] == other['img'][:30, :30]).all() and results['img'].dtype == np.uint8
    assert results['gt_bboxes'].tensor[-1].tolist() == [0, 0, 30, 30] and len(results['gt_bboxes']) == 3
    assert 'gt_masks' not in results


# -- several images, and counted randomness ---------------------------------------------------------------------------


class Images(BaseDataset):
    METAINFO = dict(classes=('a', 'b'))

    def load_data_list(self):
        return [dict(place=i, height=80, width=100) for i in range(5)]

    def prepare_data(self, idx):
        return self.pipeline(sample(seed=idx))

    def get_cat_ids(self, idx):
        return [0, 1]


TRANSFORMS = dict(
    PhotoMetricDistortion={},
    Expand={},
    MinIoURandomCrop={},
    RandomAffine={},
    CopyPaste={},
    Albu=dict(transforms=[dict(type='RandomBrightnessContrast', p=0.7), dict(type='GaussNoise', p=0.9)]),
)


@pytest.mark.parametrize('name', TRANSFORMS)
def test_a_sample_depends_on_its_seed_alone(name):
    init_default_scope('mmdet')
    mixed = MultiImageMixDataset(Images(pipeline=[]), [dict(type=name, **TRANSFORMS[name])])
    data = SeededDataset(mixed)

    def content(index, seed):
        np.random.rand()
        results = data[SeededIndex(index, seed)]
        assert 'mix_results' not in results
        return cases.digest(results['img']), results['gt_bboxes'].tensor.tolist(), results['gt_bboxes_labels'].tolist()

    first = [content(1, seed) for seed in range(8)]
    assert first == [content(1, seed) for seed in range(8)]
    assert len({str(one) for one in first}) > 3


def test_mix_dataset_stands_for_its_own():
    init_default_scope('mmdet')
    own = Images(pipeline=[], lazy_init=True)
    mixed = MultiImageMixDataset(own, [dict(type='CopyPaste'), dict(type='RandomFlip', prob=1.0)], lazy_init=True)
    assert len(mixed) == 5 and mixed.metainfo['classes'] == ('a', 'b') and mixed.get_cat_ids(3) == [0, 1]
    assert mixed.get_data_info(2)['place'] == 2
    assert mixed[0]['flip']
    mixed.update_skip_type_keys(['RandomFlip'])
    assert 'flip' not in mixed[0]


def test_what_makes_nothing_is_tried_again_and_named():
    init_default_scope('mmdet')
    never = dict(type='FilterAnnotations', min_gt_bbox_wh=(500, 500))
    with pytest.raises(RuntimeError, match=r'3 times it got nothing from FilterAnnotations .*, for .*made'):
        MultiImageMixDataset(Images(pipeline=[]), [never], max_refetch=3)[0]
