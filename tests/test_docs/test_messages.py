"""Every error message that the documents explain is the one that comes: each is provoked here."""

import json
import logging
import pickle
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torch
from conftest import load_tool
from documents import BLOCKS
from matplotlib import font_manager
from mmcv.cnn.bricks.conv_ws import ConvWS2d
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.runner import BaseLoop
from torch import nn

from mmdet.apis import DetInferencer, inference_detector, init_detector
from mmdet.engine.runner import loops
from mmdet.engine.runner.checks import compare_classes
from mmdet.evaluation import CocoMetric
from mmdet.io import published
from mmdet.models import DetDataPreprocessor, ResNet
from mmdet.ops.norm import CBN, build_norm_layer, conv_norm
from mmdet.registry import DATASETS
from mmdet.run.ending import run_main
from mmdet.run.launch import check_processes
from mmdet.run.ranks import message
from mmdet.visualization import fonts

MESSAGES = [
    block
    for block in BLOCKS
    if block.language == 'text' and (block.page == 'docs/troubleshooting.md' or 'there is no' in block.text)
]


def train(*words):
    """tools/train.py on the tiny config; it refuses before anything is trained."""
    load_tool('tools/train.py').main(['my.py', '--work-dir', 'out', *words])


def setting(*settings):
    return lambda: train('--cfg-options', *settings)


def tool(name, *words):
    return lambda: load_tool(f'tools/{name}').main(list(words))


def test(checkpoint):
    return tool('test.py', 'my.py', checkpoint, '--work-dir', 'out')


test.__test__ = False


def written(name, text):
    Path(name).write_text(text)
    return name


def saved(name, value):
    torch.save(value, name)
    return name


def edited(change, **settings):
    """The tiny training set, read after ``change(annotations)``, which may return another text for the file."""
    data = json.loads(Path('shapes/annotations/train.json').read_text())
    written(CHANGED, change(data) or json.dumps(data))
    dataset = Config.fromfile('my.py').train_dataloader.dataset
    dataset.update(data_root='shapes', ann_file='annotations/changed.json', lazy_init=False, **settings)
    dataset = DATASETS.build(dataset)
    dataset.full_init()
    return dataset


def as_rle(data):
    for annotation in data['annotations']:
        annotation['segmentation'] = dict(size=[64, 64], counts=[0, 64 * 64])


POLYGONS = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_mask=True, poly2mask=False)]


def boxes_only():
    empty = torch.zeros(0, 4)
    CocoMetric('shapes/annotations/val.json', metric='segm').process(
        {}, [dict(img_id=1, pred_instances=dict(bboxes=empty, scores=empty[:, 0], labels=empty[:, 0]))]
    )


def feed(norm, conv=nn.Conv2d):
    return lambda: conv_norm(conv(3, 8, 3), norm, torch.randn(2, 3, 8, 8))


def voc_of_cells():
    for folder in ('Annotations', 'ImageSets/Main'):
        Path('VOCdevkit', folder).mkdir(parents=True)
    written('VOCdevkit/ImageSets/Main/train.txt', 'a')
    written(
        'VOCdevkit/Annotations/a.xml',
        '<annotation><size><width>9</width><height>9</height></size><object><name>cell</name></object></annotation>',
    )
    tool('dataset_converters/pascal_voc.py', 'VOCdevkit', '--split', 'train', '--out', 'out.json')()


def results_of_four():
    empty = dict(bboxes=torch.zeros(0, 4), scores=torch.zeros(0), labels=torch.zeros(0, dtype=torch.long))
    samples = [dict(img_id=i, pred_instances=empty) for i in (2, 3, 4, 5)]
    Path('results.pkl').write_bytes(pickle.dumps(samples))
    tool('analysis_tools/analyze_results.py', 'my.py', 'results.pkl')()


def without_fonts():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(font_manager, 'findSystemFonts', list)
        patch.setattr(fonts, '_found', {})
        fonts.find_fonts('细胞 cell')


def lost_checkpoint():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loops, 'all_gather_object', lambda start: [start, 0])
        loops._Resumable.run(SimpleNamespace(_iter=6, runner=SimpleNamespace(_load_from='out/iter_6.pth')))


def pretrained():
    ResNet(18, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet18')).init_weights()


def random_detector():
    return init_detector('my.py', device='cpu')


def other_size(data):
    for image in data['images']:
        image.update(height=48)
    for annotation in data['annotations']:
        annotation['segmentation'] = []


def each(data, change):
    for annotation in data['annotations']:
        change(annotation)


def two_of_one_name():
    def change(data):
        data['categories'].append(dict(id=9, name='circle'))
        for one, key in zip(data['annotations'], (1, 9)):
            one['category_id'] = key

    edited(change)


def unannotated():
    edited(lambda data: json.dumps(dict(data, annotations=None)).replace('"annotations": null, ', ''), test_mode=True)
    CocoMetric(CHANGED)


def begun(*settings, words=()):
    """A training up to where its first iteration would be."""
    with pytest.MonkeyPatch.context() as patch:
        for loop in (loops.EpochBasedTrainLoop, loops.IterBasedTrainLoop):
            patch.setattr(loop, '_train', lambda self: None)
        train(*words, '--cfg-options', *settings)


def renumbered():
    path = Path('shapes/annotations/val.json')
    data = json.loads(path.read_text())
    data['images'][0]['id'] = 1000
    written('shapes/annotations/other.json', json.dumps(data))
    begun('val_evaluator.ann_file=shapes/annotations/other.json')


def no_masks():
    begun('model.type=FasterRCNN', 'model.roi_head.mask_head=None', 'model.roi_head.mask_roi_extractor=None')


def gone():
    edited(lambda data: data['images'][0].update(file_name='gone.png'))
    begun('train_dataloader.dataset.data_root=shapes', 'train_dataloader.dataset.ann_file=annotations/changed.json')


def scheduled(text, milestones):
    steps = f"param_scheduler = [dict(type='MultiStepLR', milestones={milestones})]\n"
    path = written('steps.py', f"_base_ = 'my.py'\n{steps}{text}")
    with pytest.MonkeyPatch.context() as patch:
        for loop in (loops.EpochBasedTrainLoop, loops.IterBasedTrainLoop):
            patch.setattr(loop, '_train', lambda self: None)
        load_tool('tools/train.py').main([path, '--work-dir', 'out'])


def resumed(*settings, text=''):
    start = "_base_ = 'my.py'\nparam_scheduler = []\ntrain_cfg = dict(max_epochs=1)\n"
    without = ('val_cfg=None', 'val_dataloader=None', 'val_evaluator=None')
    first = ['--cfg-options', *without]
    for words, more in ((first, ''), (['--resume', *first, 'optim_wrapper.optimizer.lr=0.5', *settings], text)):
        load_tool('tools/train.py').main([written('steps.py', start + more), '--work-dir', 'out', *words])


def other_order():
    loop = BaseLoop.__new__(type('Loop', (BaseLoop,), dict(run=None)))
    loop.dataloader = SimpleNamespace(dataset=SimpleNamespace(metainfo=dict(classes=('circle', 'square', 'triangle'))))
    runner = SimpleNamespace(_train_loop=None, _val_loop=None, _test_loop=loop)
    compare_classes(runner, dict(meta=dict(CLASSES=('triangle', 'square', 'circle'))), 'c.pth')


def flipped():
    data = bytearray(Path(saved('flipped.pth', dict(state_dict=dict(a=torch.ones(999))))).read_bytes())
    data[len(data) // 2] ^= 1
    return Path('flipped.pth').write_bytes(data) and 'flipped.pth'


def strange():
    cfg = Config.fromfile('my.py')
    cfg.model.neck = dict(type='os.system', command='true')
    DetInferencer(weights=saved('strange.pth', dict(meta=dict(cfg=cfg.pretty_text))))


def damaged_in_the_cache():
    Path('torch/hub/checkpoints').mkdir(parents=True)
    written('torch/hub/checkpoints/mask_rcnn_r50_fpn_1x_coco_20200205-d4b0c5d6.pth', 'PK')
    init_detector('my.py', 'mask-rcnn_r50_fpn_1x_coco')


def without_a_clone():
    published.published()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(published, 'INDEX', Path('site-packages/mmdet/.mim/model-index.yml'))
        init_detector('my.py', 'mask-rcnn_r18-half_fpn_cbnplus_24e')


def no_number():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ResNet, 'init_weights', lambda self: nn.init.constant_(self.conv1.weight, float('nan')))
        setting('val_cfg=None', 'val_dataloader=None', 'val_evaluator=None')()


def train_on(root, change=None, *names, edited=False):
    """mmdet train --data, after a change of files."""
    if change:
        change(*(f'shapes/annotations/{name}' for name in names))
    words = ['--data', root, '--work-dir', 'out']
    if edited:
        Path('out').mkdir()
        written('out/shapes.py', 'a = 1')
    load_tool('tools/train.py').main(words)


def transformed(part, *steps):
    return lambda: scheduled(f'{part}_dataloader = dict(dataset=dict(pipeline={list(steps)}))', '[1]')


IMAGE, PACK = dict(type='LoadImageFromFile'), dict(type='PackDetInputs')
FLIPPED = (IMAGE, dict(type='Resize', scale_factor=1.0), dict(type='RandomFlip', prob=0.5), PACK)


def failing_validation():
    def fail(*args):
        raise ValueError("a fault of one's own")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CocoMetric, 'process', fail)
        begun('val_cfg.type=ValLoop')


def lost_rank():
    def fail():
        raise RuntimeError('[pair.cc:545] Connection closed by peer [127.0.0.1]:1')

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('WORLD_SIZE', '2')
        patch.setenv('RANK', '0')
        run_main(fail)


CHANGED = 'shapes/annotations/changed.json'
# How the documents' message begins, and what brings it about.
PROVOKED = {
    'config cells.py: no such file': tool('train.py', 'cells.py'),
    'config bad.py: [Errno 2]': lambda: tool('train.py', written('bad.py', "_base_ = './gone.py'"))(),
    'config bad.py cannot be read': lambda: tool('train.py', written('bad.py', 'model = dict('))(),
    "config my.py, model.backbone.type: there is no 'ResNxt'": setting('model.backbone.type=ResNxt'),
    'config my.py: val_cfg is None and': setting('val_cfg=None'),
    'config my.py, model.test_cfg.rcnn.score_thr': setting('model.test_cfg.rcnn.score_thr=x'),
    "config my.py, model.neck: FPN has no argument 'out_chanels'": setting('model.neck.out_chanels=3'),
    'config my.py, optim_wrapper.optimizer.lr': setting('optim_wrapper.optimizer.lr=2e'),
    'config my.py, env_cfg': setting('env_cfg.cudnn_benchmrk=True'),
    'config my.py, default_hooks': setting('default_hooks.visualisation.draw=True'),
    'config my.py, model: rpn_head': setting('model.neck.out_channels=32'),
    'config my.py, model: roi_head.bbox_roi_extractor': setting(
        'model.roi_head.bbox_roi_extractor.featmap_strides=[8,16,32,64]'
    ),
    'DetDataPreprocessor: mean=': lambda: DetDataPreprocessor([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    '--data nowhere': lambda: train_on('nowhere'),
    '--data data': lambda: train_on('data'),
    '--data shapes': lambda: train_on('shapes', shutil.copy, 'val.json', 'train_old.json'),
    'shapes/annotations/train.json: its image': lambda: train_on('shapes', shutil.rmtree, '../train'),
    'out/shapes.py is there already': lambda: train_on('shapes', edited=True),
    'error: unrecognized arguments': lambda: train('--batch-size', '1'),
    "config my.py, model.neck.norm_cfg: norm_cfg: unknown norm type 'CNB'": setting('model.neck.norm_cfg.type=CNB'),
    'norm_cfg: CBN has no argument': lambda: build_norm_layer(dict(type='CBN', buffer=3), 8),
    "norm_cfg: GN needs 'num_groups'": lambda: build_norm_layer(dict(type='GN'), 8),
    'num_channels (48) must be divisible': lambda: build_norm_layer(dict(type='GN', num_groups=32), 48),
    "CBN: backprop='window' needs": lambda: CBN(8, backprop='window', compensation='none'),
    'CBN ...: burnin=8 counts epochs': feed(CBN(8, burnin=8, by_epoch=True)),
    'CBN ...: in training it needs the convolution': lambda: CBN(8)(torch.randn(2, 8, 4, 4)),
    'CBN follows the weights of the convolution before it': feed(CBN(8), ConvWS2d),
    'config my.py, train_dataloader.dataset.data_root': setting('train_dataloader.dataset.data_root=data/cells/'),
    'config my.py, model.roi_head.bbox_head.num_classes': setting('model.roi_head.bbox_head.num_classes=80'),
    'ann_file ...: not JSON': lambda: edited(lambda data: '{"images": ['),
    "ann_file ...: not in COCO's format": lambda: edited(lambda data: json.dumps(dict(images=[], annotations=[]))),
    'ann_file ...: has no category': lambda: edited(lambda data: None, metainfo=dict(classes=('person',))),
    'metainfo.classes must be a tuple': lambda: edited(lambda data: None, metainfo=dict(classes=('circle'))),
    'ann_file ...: annotations[0] (id ...): bbox must be': lambda: edited(
        lambda data: data['annotations'][0].update(bbox=[1, 2, 3])
    ),
    'ann_file ...: none of 6 images has an object': lambda: edited(lambda data: data['annotations'].clear()),
    '...: its categories are in another order': lambda: edited(
        lambda data: None, metainfo=dict(classes=('triangle', 'circle', 'square'))
    ),
    'ann_file ...: each bbox must be': lambda: edited(
        lambda data: each(data, lambda one: one.update(bbox=[20, 21, 60, 61]))
    ),
    'ann_file ...: category_id is counted': lambda: edited(
        lambda data: each(data, lambda one: one.update(category_id=one['category_id'] - 1))
    ),
    'ann_file ...: image_id of': lambda: edited(lambda data: each(data, lambda one: one.update(image_id=1000))),
    'ann_file ...: categories 1 and 9': two_of_one_name,
    'CocoMetric: ann_file ... has no list': unannotated,
    '...: 6 images, ... objects': lambda: edited(lambda data: data['annotations'][0].update(bbox=[1, 1, 0, 5])),
    'image ...: no such file; the annotations': lambda: edited(
        lambda data: data['images'][0].update(file_name='gone.png')
    )[0],
    'image ...: cannot be read': lambda: edited(lambda data: written('shapes/train/000000.png', '') * 0)[0],
    'ann_file ...: images[0] (000000.png) and images[1]': lambda: edited(
        lambda data: data['images'][1].update(id=data['images'][0]['id'])
    ),
    'ann_file ...: annotations[0] (id ...): bbox must hold numbers': lambda: edited(
        lambda data: data['annotations'][0].update(bbox=[float('nan'), 1, 5, 5])
    ),
    'image ...: is 64 x 64 pixels': lambda: edited(other_size)[0],
    'image ...: has masks as RLE': lambda: edited(as_rle, pipeline=POLYGONS)[0],
    "CocoMetric: metric 'segm' needs masks": boxes_only,
    'VOCdevkit/Annotations/a.xml: not a VOC annotation': voc_of_cells,
    "predictions results.pkl: of 4 images, but the config's test set": results_of_four,
    'no font here has': without_fonts,
    '--out data/shapes: is there already': tool('dataset_converters/make_shapes.py', '--out', 'data/shapes'),
    'image ...: no such file, and 0 more': gone,
    'val_evaluator.ann_file ... is of other images': renumbered,
    'val_dataloader.dataset.metainfo.classes is not': lambda: begun(
        'val_dataloader.dataset.metainfo.classes=(triangle,circle,square)'
    ),
    "val_evaluator.metric: 'segm' needs masks": no_masks,
    'default_hooks.checkpoint.save_best: the validation': lambda: begun(
        'default_hooks.checkpoint.save_best=coco/bbox_mAP50'
    ),
    'train_dataloader: 6 images make no batch': lambda: begun(
        'train_dataloader.batch_size=7', 'train_dataloader.batch_sampler.drop_last=True'
    ),
    'val_dataloader.dataset.pipeline: its samples': lambda: begun(
        'val_dataloader.dataset.pipeline.2.meta_keys=(img_path,)'
    ),
    'train_dataloader.dataset: pipeline: LoadAnnotations': transformed(
        'train', dict(type='LoadAnnotations', with_mask=True), PACK
    ),
    'val_dataloader.dataset.pipeline: RandomFlip': transformed('val', *FLIPPED),
    'validation fails': failing_validation,
    'param_scheduler.0.T_max': lambda: scheduled("param_scheduler = [dict(type='CosineAnnealingLR', T_max=1)]", '[1]'),
    'train_cfg.val_begin': lambda: begun('train_cfg.val_begin=3'),
    'optim_wrapper.paramwise_cfg.custom_keys': lambda: begun(
        'optim_wrapper.paramwise_cfg.custom_keys.bckbone.lr_mult=0.1'
    ),
    'model.backbone.frozen_stages': lambda: begun('model.backbone.frozen_stages=1'),
    'default_hooks.checkpoint.interval': lambda: begun('default_hooks.checkpoint.interval=0'),
    'default_hooks.checkpoint.out_dir': lambda: train('--cfg-options', 'default_hooks.checkpoint.out_dir=my.py'),
    'train_cfg.val_interval: must be': lambda: begun('train_cfg.val_interval=0'),
    'param_scheduler.0 (MultiStepLR) counts epochs': lambda: scheduled(
        "train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=9)", '[1]'
    ),
    'param_scheduler.0.milestones': lambda: scheduled('', '[2, 3]'),
    '--resume takes from': resumed,
    '--resume: the run of': lambda: resumed('train_dataloader.batch_size=1'),
    'checkpoint ...: cannot be resumed from': lambda: resumed(
        text="optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW'))"
    ),
    'nothing left to train': resumed,
    'checkpoint c.pth: trained with the classes': other_order,
    'checkpoint epoch_9.pth: no such file': test('epoch_9.pth'),
    'checkpoint cut.pth: not a checkpoint, or cut off': lambda: test(written('cut.pth', 'PK'))(),
    'checkpoint other.pth: holds': lambda: init_detector('my.py', saved('other.pth', dict(model=nn.Linear(2, 2)))),
    'checkpoint checkpoint.pth: the checkpoint is of another model': lambda: init_detector(
        'my.py', 'checkpoint.pth', cfg_options={'model.roi_head.bbox_head.fc_out_channels': 64}
    ),
    'checkpoint weights.pth: holds no weights': lambda: init_detector('my.py', saved('weights.pth', dict(model={}))),
    'checkpoint flipped.pth: damaged': lambda: init_detector('my.py', flipped()),
    'checkpoint strange.pth: its config names': strange,
    'checkpoint torchvision://resnet18: neither is': pretrained,
    'checkpoint mask-rcnn_r50_fpn_1x: no such file': test('mask-rcnn_r50_fpn_1x'),
    'checkpoint mask_rcnn_r50_fpn_gn_1x: no such file': lambda: train('--weights', 'mask_rcnn_r50_fpn_gn_1x'),
    'checkpoint mask-rcnn_r50_fpn_1x_coco: neither is': lambda: DetInferencer('mask-rcnn_r50_fpn_1x_coco'),
    'checkpoint mask-rcnn_r50_fpn_1x_coco: ... is damaged': damaged_in_the_cache,
    'checkpoint mask-rcnn_r18-half_fpn_cbnplus_24e: ...': without_a_clone,
    '--resume mask-rcnn_r50_fpn_1x_coco: these are weights': lambda: train('--resume', 'mask-rcnn_r50_fpn_1x_coco'),
    'checkpoint bare.pth: holds no config': lambda: DetInferencer(weights=saved('bare.pth', {})),
    'mixed precision in float16': lambda: train('--amp', 'fp16'),
    'error: argument --amp: invalid choice': lambda: train('--amp', 'fp8'),
    'optim_wrapper.dtype must be': lambda: train('--amp', '--cfg-options', 'optim_wrapper.dtype=float32'),
    '--auto-scale-lr: config my.py has no': lambda: train('--auto-scale-lr', '--cfg-options', 'auto_scale_lr=None'),
    "device 'cuda:0': there is no CUDA here": lambda: init_detector('my.py', device='cuda:0'),
    'iteration 1: the loss is not finite': no_number,
    '[rank 0] error: the connection to another rank': lost_rank,
    'GPUS=64: this machine has no GPU': lambda: check_processes('64'),
    'the processes start at iterations': lost_checkpoint,
    "config 'mask-rcnn_r50': no config has this name": lambda: DetInferencer('mask-rcnn_r50'),
    'image gone.jpg: no such file': lambda: inference_detector(random_detector(), 'gone.jpg'),
    'an image must be an array (H, W, 3)': lambda: inference_detector(random_detector(), np.zeros((8, 8), np.uint8)),
}
# Those of docs/mmdetection.md share a block.
TEXTS = [
    (block.place, text)
    for block in MESSAGES
    for text in (block.text.splitlines() if block.page == 'docs/mmdetection.md' else [' '.join(block.text.split())])
]


@pytest.fixture
def there(place, tiny_config, tiny_shapes, monkeypatch):
    """The place of the scripts, with shapes to spoil, a machine of two cores without GPU, network and weights."""
    shutil.copytree(tiny_shapes, 'shapes')
    shutil.copy(tiny_config, 'my.py')
    Path('data/shapes').mkdir(parents=True)
    monkeypatch.setenv('TORCH_HOME', 'torch')
    monkeypatch.setattr('torch.hub.download_url_to_file', refuse)
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    monkeypatch.setattr('torch.cuda.device_count', lambda: 0)
    monkeypatch.setattr('os.cpu_count', lambda: 2)


def refuse(*args, **kwargs):
    raise URLError('no network')


def said(provoke, capsys) -> str:
    """Everything that is printed or logged, and the error."""
    end = ''
    with pytest.MonkeyPatch.context() as patch:
        for handler in MMLogger.get_current_instance().handlers:
            if type(handler) is logging.StreamHandler:  # an earlier test's
                patch.setattr(handler, 'stream', sys.stdout)
        try:
            provoke()
        except (Exception, SystemExit) as error:
            end = message(error)
    printed = capsys.readouterr()
    return ' '.join(f'{printed.out} {printed.err} {end}'.split())


@pytest.mark.parametrize('place_of, text', TEXTS, ids=[f'{page}-{text[:50]}' for page, text in TEXTS])
def test_message(place_of, text, there, capsys):
    found = [provoke for start, provoke in PROVOKED.items() if text.startswith(start)]
    assert len(found) == 1, f'{place_of}: {text[:60]!r} begins like {len(found)} of PROVOKED'
    heard = said(found[0], capsys)
    pattern = re.escape(text).replace(re.escape('...'), '.*?')
    assert re.search(pattern, heard), f'{place_of} has\n{text}\nbut heard was\n{heard[-1500:]}'


def test_every_provoked_message_is_explained():
    assert [start for start in PROVOKED if not any(text.startswith(start) for _, text in TEXTS)] == []
