"""What would stop or spoil a run later is said before its first iteration."""

import json
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import load_tool
from mmengine.config import Config
from mmengine.runner import BaseLoop
from PIL import Image

from mmdet.engine.runner import checks, loops, rehearsal
from mmdet.evaluation import CocoMetric
from mmdet.registry import METRICS
from mmdet.run import prepare

SHAPES = 'shapes/annotations/'
LOAD, PACK = "dict(type='LoadImageFromFile')", "dict(type='PackDetInputs')"
ANNOTATIONS, FLIP = "dict(type='LoadAnnotations', with_mask=True)", "dict(type='RandomFlip', prob=0.5)"
TRAIN = loops.EpochBasedTrainLoop._train


@pytest.fixture
def said(tiny_shapes, tiny_config, tmp_path, monkeypatch):
    """A place with shapes to spoil and their config; trainings end where they would begin. What is said of them."""
    log = []
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_shapes, 'shapes')
    text = tiny_config.read_text().replace(str(tiny_shapes), 'shapes') + 'param_scheduler = []\n'
    text += 'auto_scale_lr = dict(base_batch_size=2)\n'
    (tmp_path / 'tiny.py').write_text(text)
    for loop in (loops.EpochBasedTrainLoop, loops.IterBasedTrainLoop):
        monkeypatch.setattr(loop, '_train', lambda self: None)
    for module in (checks, loops, prepare):
        monkeypatch.setattr(module, 'print_log', lambda text, *_: log.append(text))
    return log


def train(*options, words=(), extra=''):
    with open('tiny.py') as file:
        text = file.read()
    with open('mine.py', 'w') as file:
        file.write(text + extra)
    load_tool('tools/train.py').main(
        ['mine.py', '--work-dir', 'work', *words, '--cfg-options', 'randomness.seed=1', *options]
    )


def edit(part, change):
    path = f'{SHAPES}{part}.json'
    with open(path) as file:
        data = json.load(file)
    change(data)
    with open(path, 'w') as file:
        json.dump(data, file)


def test_a_run_that_is_as_it_should_be(said):
    train()
    assert said == []


def test_an_evaluator_without_objects(said):
    with pytest.raises(ValueError, match="^val_evaluator: CocoMetric has no ann_file, .* add 'instances' to PackDet"):
        train('val_evaluator.ann_file=None')
    keys = "('img_id','img_path','ori_shape','img_shape','scale_factor','instances')"
    steps = f"{LOAD}, dict(type='Resize', scale=(64, 64)), {ANNOTATIONS}, dict(type='PackDetInputs', meta_keys={keys})"
    train('val_evaluator.ann_file=None', extra=f"val_dataloader['dataset']['pipeline'] = [{steps}]\n")
    assert said == []


def test_a_mask_of_another_size_than_its_image(said):
    def change(data):
        side = data['images'][0]['width']
        data['annotations'][0]['segmentation'] = dict(size=[side, side + 1], counts=[side * (side + 1)])

    edit('val', change)
    words = r'val_evaluator.ann_file .*val.json: annotations\[0\]: segmentation has the size \[64, 65\], its image'
    with pytest.raises(ValueError, match=words):
        train()
    train('val_evaluator.metric=bbox')
    edit('train', change)
    with pytest.raises(ValueError, match=r'train.json: annotations\[0\]: segmentation has the size \[64, 65\]'):
        train('val_evaluator.metric=bbox')


def other_size(data):
    data['images'][3].update(height=48)
    for one in data['annotations']:
        one['segmentation'] = []


@pytest.mark.parametrize(
    'change, options, words',
    [
        (
            ('val', lambda data: data['images'][2].update(id=99)),
            ('val_dataloader.dataset.ann_file=annotations/old.json',),
            'val_evaluator.ann_file .*val.json is of other images than val_dataloader.dataset.ann_file '
            'shapes/annotations/old.json: for the id 3 this one has 000002.png of 64 x 64, the evaluator no image.',
        ),
        (None, ('val_dataloader.dataset.metainfo.classes=(circle,triangle,square)',), 'label 1 is .*triangle.*square'),
        (
            None,
            ('train_dataloader.batch_size=7', 'train_dataloader.batch_sampler.drop_last=True'),
            '6 images make no batch of 7',
        ),
        (None, ('train_cfg.max_epochs=0',), 'train_cfg.max_epochs: must be 1 or more, got 0'),
        (
            None,
            "param_scheduler = [dict(type='ExponentialLR', gamma='x')]",
            'param_scheduler: .*|.0.gamma: must be a num',
        ),
        (
            None,
            "param_scheduler = [dict(type='MultiStepLR', milestones=[1], gamma='x')]",
            '0.gamma: must be a number, got',
        ),
        (None, ('optim_wrapper.accumulative_counts=0',), 'optim_wrapper: _accumulative_counts at least'),
        (None, ('optim_wrapper.optimizer.lr=-1',), 'optim_wrapper: Invalid learning rate: -1'),
        (
            None,
            ('train_dataloader.dataset.pipeline.1.with_mask=False',),
            'LoadAnnotations has with_mask=False, and the',
        ),
        (
            None,
            ('train_dataloader.dataset.pipeline.1.with_bbox=False',),
            'LoadAnnotations has with_bbox=False, and the',
        ),
        (None, ('val_dataloader.batch_size=0',), 'val_dataloader.batch_size: must be a whole number, 1 or more, got 0'),
        (
            None,
            ('train_dataloader.num_workers=x',),
            'train_dataloader.num_workers: must be a whole number, 0 or more, g',
        ),
        (
            None,
            ('train_dataloader.persistent_workers=True',),
            'train_dataloader.persistent_workers: True needs workers',
        ),
        (None, ('val_evaluator.proposal_nums=[0,1]',), 'proposal_nums must be numbers of detections, 1 or more, got'),
        (None, ('val_evaluator.iou_thrs=[0.5,1.5]',), 'iou_thrs must be above 0 and at most 1'),
        (
            None,
            ('val_evaluator.outfile_prefix=tiny.py/x/y',),
            'outfile_prefix tiny.py/x/y: there can be no such folder',
        ),
        (None, ('train_cfg.val_interval=0',), 'val_interval: must be a number of epochs, 1 or more, got 0'),
        (
            None,
            ('default_hooks.checkpoint.save_best=coco/bbox_mAP50',),
            "save_best: the validation gives no 'coco/bbox_mAP50'; nearest: 'coco/bbox_mAP_50'",
        ),
        (
            None,
            "custom_hooks = [dict(type='EarlyStoppingHook', monitor='bbox_mAP')]",
            "EarlyStoppingHook.monitor: the validation gives no 'bbox_mAP'",
        ),
        (
            None,
            "param_scheduler = [dict(type='ReduceOnPlateauLR', monitor='coco/mAP')]",
            "param_scheduler.0.monitor: the validation gives no 'coco/mAP'",
        ),
        (
            None,
            ('model.type=FasterRCNN', 'model.roi_head.mask_head=None', 'model.roi_head.mask_roi_extractor=None'),
            "val_evaluator.metric: 'segm' needs masks, and this detector predicts none",
        ),
        (
            None,
            ('val_dataloader.dataset.pipeline.2.meta_keys=(img_path,)',),
            'val_dataloader.dataset.pipeline: its samples have no img_id, ori_shape, img_shape, scale_factor',
        ),
        (
            None,
            f"val_dataloader['dataset']['pipeline'] = [{LOAD}, {PACK}]",
            'its samples have no scale_factor, which detections need; .*Resize',
        ),
        (
            None,
            f"val_dataloader['dataset']['pipeline'] = [{LOAD}, dict(type='Resize', scale=(64, 64)), {FLIP}, {PACK}]",
            'val_dataloader.dataset.pipeline: RandomFlip changes where the objects are',
        ),
        (
            None,
            f"train_dataloader['dataset']['pipeline'] = [{LOAD}, {PACK}]",
            'train_dataloader.dataset.pipeline: its samples have no gt_instances.bboxes.*with_mask=True',
        ),
        (
            None,
            f"train_dataloader['dataset']['pipeline'] = [{LOAD}, {ANNOTATIONS}]",
            'train_dataloader.dataset.pipeline: its samples have no inputs, gt_instances.bboxes.*PackDetInputs',
        ),
        (
            None,
            f"train_dataloader['dataset']['pipeline'] = [{ANNOTATIONS}, {PACK}]",
            "train_dataloader.dataset: pipeline: LoadAnnotations finds no 'ori_shape' in what it gets",
        ),
        (None, ('default_hooks.logger.interval=0',), 'hook LoggerHook: interval must be greater than 0'),
        (None, ('train_cfg.dynamic_intervals=5',), 'train_cfg, train_dataloader: AssertionError'),
        (None, ('train_dataloader.timeout=5',), 'train_dataloader.timeout: 5 needs workers'),
        (
            None,
            ('default_hooks.visualization.interval=0',),
            'DetVisualizationHook: interval must be a number of images',
        ),
        (
            None,
            ('train_dataloader.dataset.filter_cfg.min_sze=3',),
            "filter_cfg has no 'min_sze'; it has filter_empty_gt",
        ),
        (
            None,
            ('model.roi_head.bbox_roi_extractor.featmap_strides=[8,16,32,64]',),
            r'strides of \[4, 8, 16, 32\] pixels',
        ),
        (('train', other_size), (), 'image .*000003.png: is 64 x 64 pixels, but 64 x 48 in the annotations'),
        (
            ('val', lambda data: data['images'][4].update(file_name='sub/000004.png')),
            (),
            'image .*val/sub/000004.png: no such file, and 0 more of the 5 images.*There is shapes/val/000004.png',
        ),
    ],
)
def test_refused_before_the_first_iteration(said, change, options, words):
    shutil.copy(f'{SHAPES}val.json', f'{SHAPES}old.json')
    if change:
        edit(*change)
    with pytest.raises((ValueError, OSError), match=words):
        train(*(options if isinstance(options, tuple) else ()), extra='' if isinstance(options, tuple) else options)


def test_images_that_may_be_left_out_are_not_looked_for(said):
    edit('train', lambda data: data['images'][0].update(file_name='gone.png'))
    train('train_dataloader.dataset.skip_broken=0.5')
    with pytest.raises(FileNotFoundError, match=r'gone.png: no such file.*skip_broken=0.01'):
        train()


def test_an_image_on_its_side(said):
    """Annotated as it is stored, and as it is shown."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((48, 64, 3), dtype=np.uint8)).save('shapes/train/side.jpg', exif=exif)

    def stored(data):
        data['images'][5].update(file_name='side.jpg', width=64, height=48)
        data['annotations'] = [dict(one, bbox=[1, 1, 20, 20], segmentation=[]) for one in data['annotations']]

    edit('train', stored)
    with pytest.raises(
        ValueError, match=r'side.jpg: is 48 x 64 .*EXIF orientation \(6\) turns it.*pipeline.0.color_type'
    ):
        train()
    train('train_dataloader.dataset.pipeline.0.color_type=color_ignore_orientation')
    edit('train', lambda data: data['images'][5].update(width=48, height=64))
    train()


def test_another_loop_than_the_rest_counts_in(said):
    loop = ('train_cfg._delete_=True', 'train_cfg.type=IterBasedTrainLoop', 'train_cfg.max_iters=30')
    steps = "param_scheduler = [dict(type='MultiStepLR', milestones=[1])]"
    train(*loop, 'train_cfg.val_interval=10', extra=steps)
    assert len(said) == 2 and 'a checkpoint every 10, as validation' in said[0]
    assert 'param_scheduler.0 (MultiStepLR) counts epochs' in said[1]
    saved = Config.fromfile('work/mine.py')
    assert saved.log_processor.by_epoch is False and saved.default_hooks.checkpoint.interval == 10
    said.clear()
    train(*loop, 'train_cfg.val_interval=10', 'default_hooks.checkpoint.by_epoch=True')
    assert len(said) == 1 and 'no checkpoint before the last iteration' in said[0]


def test_rates_that_never_drop(said):
    train(extra="param_scheduler = [dict(type='MultiStepLR', milestones=[3, 2])]")
    assert len(said) == 1 and 'param_scheduler.0.milestones [2, 3]: the run has 2 epochs' in said[0]
    said.clear()
    train(extra="param_scheduler = [dict(type='MultiStepLR', milestones=[1, 2])]")
    assert said == []


@pytest.mark.parametrize(
    'extra, words',
    [
        ("param_scheduler = [dict(type='CosineAnnealingLR', T_max=1)]", 'rises again at the end: .*0.T_max=2'),
        ("param_scheduler = [dict(type='CosineAnnealingLR', T_max=9)]", 'has not come down at the end: .*0.T_max=2'),
        ("param_scheduler = [dict(type='CosineAnnealingLR', begin=1, T_max=1)]", None),
        (
            "param_scheduler = [dict(type='PolyLR', begin=0, end=12, convert_to_iter_based=True)]",
            'falls for 36 iterations of 6.*0.end=2',
        ),
        ("param_scheduler = [dict(type='PolyLR', end=1)]", None),
        ("train_cfg['val_begin'] = 3", 'train_cfg.val_begin=3: the run has 2 epochs and is never validated'),
        (
            "optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'bckbone': dict(lr_mult=0.1)}))",
            "custom_keys.bckbone: no parameter has this in its name.*'backbone'",
        ),
        (
            "model['backbone']['frozen_stages'] = 1",
            'frozen_stages=1: these layers are never trained, and stay at random',
        ),
        ("model['backbone']['norm_eval'] = True", 'norm_eval=True: its norms never learn statistics'),
        ("default_hooks['checkpoint'] = dict(interval=0)", 'interval=0: there is no checkpoint before the last'),
    ],
)
def test_settings_that_do_not_fit(said, extra, words):
    train(extra=extra)
    assert len(said) == (words is not None) and all(re.search(words, text) for text in said), said


class Scores(CocoMetric):
    """A metric of one's own that fails at the first image, or only remembers what it was given."""

    fails, seen = True, []

    def process(self, data_batch, data_samples):
        super().process(data_batch, data_samples)
        self.seen.append((len(self.results), data_samples[0]['pred_instances']['masks'].shape[1:]))
        if self.fails:
            raise RuntimeError('my fault')


def test_a_validation_that_fails_is_tried_before_the_training(said, monkeypatch):
    monkeypatch.setattr(rehearsal, 'print_log', lambda text, *_: said.append(text))
    monkeypatch.setitem(METRICS.module_dict, 'Scores', Scores)
    with pytest.raises(RuntimeError, match='my fault'):
        train('val_evaluator.type=Scores')
    assert said == ['validation fails: it was tried on one image before the training']
    monkeypatch.setattr(Scores, 'fails', False)
    runners = []
    monkeypatch.setattr(loops.EpochBasedTrainLoop, '_train', lambda loop: runners.append(loop.runner))
    train('val_evaluator.type=Scores')
    assert Scores.seen[1:] == [(1, (64, 64))]  # the whole image's masks, and nothing stays
    assert runners[0].val_evaluator.metrics[0].results == [] and runners[0].model.training


def test_an_evaluator_with_other_objects(said):
    """Images of one name in other folders."""
    train('val_evaluator.ann_file=shapes/annotations/train.json')
    assert (
        len(said) == 1 and 'for 5 of the 5 images it has other objects than val_dataloader.dataset.ann_file' in said[0]
    )
    said.clear()
    shutil.copy(f'{SHAPES}val.json', f'{SHAPES}info.json')
    edit('info', lambda data: data.pop('annotations'))
    train('val_dataloader.dataset.ann_file=annotations/info.json')
    assert said == []


CLASSES = ('circle', 'square', 'triangle')


@pytest.mark.parametrize('mode', ['train', 'resume', 'test'])
def test_a_checkpoint_of_other_classes(said, mode):
    runner = SimpleNamespace(_train_loop=None, _val_loop=None, _test_loop=None, _resume=mode == 'resume')
    loop = BaseLoop.__new__(type('Loop', (BaseLoop,), dict(run=None)))
    loop.dataloader = SimpleNamespace(dataset=SimpleNamespace(metainfo=dict(classes=CLASSES)))
    setattr(runner, '_test_loop' if mode == 'test' else '_train_loop', loop)

    def compare(meta):
        checks.compare_classes(runner, dict(meta=meta), 'c.pth')

    for meta in ({}, dict(CLASSES=CLASSES), dict(dataset_meta=dict(classes=list(CLASSES))), dict(dataset_meta=3)):
        compare(meta)
    assert said == []
    for meta in (dict(dataset_meta=dict(classes=CLASSES[::-1])), dict(CLASSES=CLASSES[::-1])):
        if mode == 'train':
            compare(meta)
        else:
            with pytest.raises(ValueError, match=r"c.pth: trained with the classes 'triangle'.*in another order than"):
                compare(meta)
    compare(dict(dataset_meta=dict(classes=('a', 'b', 'c'))))
    assert len(said) == (mode != 'train')


def test_settings_that_a_checkpoint_overrides(said, monkeypatch):
    monkeypatch.setattr(loops.EpochBasedTrainLoop, '_train', TRAIN)
    steps = "param_scheduler = [dict(type='MultiStepLR', milestones=[{}])]"
    options = ('val_cfg=None', 'val_dataloader=None', 'val_evaluator=None', 'train_cfg.val_interval=5')
    train(*options, 'train_cfg.max_epochs=1', extra=steps.format(1))
    said.clear()
    train(*options, 'train_cfg.max_epochs=1', words=['--resume'], extra=steps.format(1))
    assert [text[:55] for text in said] == [
        'param_scheduler.0.milestones [1]: the run has 1 epochs,',
        'nothing left to train: epoch 1 was the last one of trai',
    ]
    said.clear()
    assert not any('had another config' in text for text in said)
    changed = ('optim_wrapper.optimizer.lr=0.5', 'optim_wrapper.optimizer.weight_decay=0.25')
    changed += ('train_dataloader.batch_size=1', 'train_dataloader.dataset.filter_cfg.min_size=8')
    buffers = "model['neck']['norm_cfg'] = dict(burnin=0, by_epoch=False, buffer_num=7)\n"
    train(*options, *changed, words=['--resume'], extra=buffers + steps.format(2))
    text = ' '.join(said)
    assert 'lr=0.04 (config: 0.5)' in text and 'optimizer.weight_decay=0.0001 (config: 0.25)' in text
    found = 'model.neck.norm_cfg.buffer_num: 3, now 7; train_dataloader.batch_size: 2, now 1; train_dataloader.dataset.'
    assert f'goes on with this one: {found}' in text
    assert (
        'param_scheduler.0.milestones=[1] (config: [2])' in text and 'start anew from the weights: load_from=' in text
    )
