"""Work of this package and, the same lines, of mmdetection 3.x: whichever the interpreter has under the name mmdet."""

from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import serve
import torch
from inputs import objects, pixels
from mmengine.config import Config
from mmengine.logging import MMLogger

import mmdet
from mmdet.utils import register_all_modules


def load(name):
    folder = Path(mmdet.__file__).parent
    found = next((path for path in (folder / '.mim/configs', folder.parent / 'configs') if path.exists()), None)
    cfg = Config.fromfile(str(found / name))
    cfg.model.backbone.init_cfg = None
    # mmdetection's own operators need its compiled ones.
    for extractor in ('bbox_roi_extractor', 'mask_roi_extractor'):
        cfg.model.roi_head[extractor].roi_layer.use_torchvision = True
    return cfg


def prepare(name):
    """Do what this package's commands, or their data loaders' workers, do first; mmdetection has no such thing."""
    with suppress(ImportError):
        from mmdet.run import prepare as module

        getattr(module, name)()


def train(settings):
    from mmengine.optim import build_optim_wrapper
    from mmengine.structures import InstanceData

    from mmdet.registry import MODELS
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    prepare('share_memory')
    cfg = load(settings['config'])
    cfg.optim_wrapper.optimizer.lr = 1e-5  # so small a step that the work stays the same
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.to(settings['device']).train()
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
    size = settings['height'], settings['width']
    images, samples = [], []
    for seed in range(settings['images']):
        boxes, labels, masks = objects(*size, seed=seed)
        images.append(torch.from_numpy(pixels(*size, seed)))
        sample = DetDataSample(metainfo=dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0)))
        sample.gt_instances = InstanceData(
            bboxes=torch.from_numpy(boxes), labels=torch.from_numpy(labels), masks=BitmapMasks(masks, *size)
        )
        sample.ignored_instances = sample.gt_instances[:0]
        samples.append(sample)

    def step():
        torch.manual_seed(0)  # the samplers draw
        data = model.data_preprocessor(dict(inputs=list(images), data_samples=samples), True)
        with serve.mixed(settings):
            losses = model(**data, mode='loss')
        loss, _ = model.parse_losses(losses)
        optimizer.update_params(loss)
        return loss.item()

    return step


def infer(settings):
    from mmdet.apis import inference_detector, init_detector

    cfg = load(settings['config'])
    model = init_detector(cfg, settings['weights'], device=settings['device'])

    def detect():
        with serve.mixed(settings):
            found = inference_detector(model, settings['images'])
        return [len(one.pred_instances.masks) for one in found]

    return detect


def data(settings):
    from mmdet.registry import DATASETS

    cv2.setNumThreads(0)  # as in a data loader's worker
    prepare('keep_memory')
    cfg = load(settings['config']).train_dataloader.dataset
    cfg.update(data_root='', ann_file=settings['annotations'], data_prefix=dict(img=settings['folder']))
    dataset = DATASETS.build(cfg)

    def read():
        np.random.seed(0)
        for i in range(len(dataset)):
            dataset[i]
        return len(dataset)

    return read


def evaluate(settings):
    """From what a detector gives to the numbers."""
    from mmdet.evaluation import CocoMetric

    kinds = settings['kinds']
    metric = CocoMetric(ann_file=settings['annotations'], metric=kinds, proposal_nums=(1, 10, 100), classwise=False)
    metric.dataset_meta = dict(classes=tuple(settings['classes']))
    samples = torch.load(settings['detections'], weights_only=False)

    def work():
        metric.process({}, samples)
        return list(metric.evaluate(len(samples)).values())

    return work


if __name__ == '__main__':
    register_all_modules(init_default_scope=True)
    MMLogger.get_instance('mmengine', log_level='ERROR')
    serve.main(lambda settings: globals()[settings['work']](settings))
