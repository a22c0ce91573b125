"""A detector from a config and a checkpoint, and what it detects in images."""

import copy
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmengine.registry import init_default_scope
from torch import nn

from mmdet.config import build_model, check_model_config, inner_dataset, load_config, step_name
from mmdet.datasets.coco import COCO_CLASSES
from mmdet.io.checkpoint import check_state_dict, dataset_meta, read_checkpoint
from mmdet.registry import DATASETS
from mmdet.run.prepare import setup
from mmdet.structures import DetDataSample
from mmdet.utils import get_test_pipeline_cfg
from mmdet.visualization import get_palette

Image = str | Path | np.ndarray
#: transforms that read an image, from a file and from an array; scripts put one in the place of the other
LOADERS = ('LoadImageFromFile', 'LoadImageFromNDArray')


def init_detector(
    config: str | Path | Config,
    checkpoint: str | None = None,
    device: str = 'cpu',
    cfg_options: dict | None = None,
    palette: Any = 'none',
    trust_checkpoint: bool = False,
) -> nn.Module:
    """Build a detector from a config and a checkpoint, ready for :func:`inference_detector`.

    Args:
        config: a file or a Config, which stays as it is.
        checkpoint: a file, URL, or name of a config with published weights, for instance
            'mask-rcnn_r50_fpn_1x_coco'; without it the weights are random.
        device: 'cpu', 'cuda:0', ...
        cfg_options: settings that override the config, by dotted key.
        palette: colours of the classes, see :func:`mmdet.visualization.get_palette`; 'none' for the checkpoint's or
            config's.
        trust_checkpoint: unpickle whatever the checkpoint holds, which may run any code.

    Returns:
        The model in evaluation mode with ``cfg``, its config, and ``dataset_meta``, the ``classes`` and ``palette``.

    Raises:
        FileNotFoundError, KeyError, TypeError, ValueError: a config or a checkpoint that cannot be read, a part or a
            key that there is not, weights of another model, an unknown palette, no such device.

    Example:
        Only detections with a score above 0.5::

            model = init_detector(
                'configs/mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
                'epoch_12.pth',
                cfg_options={'model.test_cfg.rcnn.score_thr': 0.5},
            )
    """
    setup()
    if isinstance(config, (str, Path)):
        cfg = load_config(str(config))
    elif isinstance(config, Config):
        cfg = copy.deepcopy(config)
    else:
        raise TypeError(f'config must be the path of a config file or a Config, got {type(config)}')
    if cfg_options is not None:
        cfg.merge_from_dict(cfg_options)
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    saved = None if checkpoint is None else read_checkpoint(str(checkpoint), trust_checkpoint)
    return build_detector(cfg, saved, str(checkpoint), palette, device)


def build_detector(cfg: Config, saved: dict | None, path: str, palette: Any, device: str | None) -> nn.Module:
    """Build a detector in evaluation mode; ``cfg`` becomes its config.

    Args:
        cfg: changed in place: pretrained weights of the backbone are not asked for.
        saved: a checkpoint's contents, read at ``path``, or None for random weights.
        path: for messages.
        palette, device: as of :func:`init_detector`; a device of None is the best there is.
    """
    get_palette(palette, 1)  # refused before the model is built
    device = pick_device(device)
    check_model_config(cfg)
    # As in mmdetection: a script that initializes the model afterwards does not ask for pretrained weights.
    cfg.model.pop('init_cfg', None)
    if isinstance(cfg.model.get('backbone'), dict):
        cfg.model.backbone.pop('init_cfg', None)
    model: BaseModel = build_model(cfg)
    if saved is None:
        print_log(
            'there is no checkpoint: the weights are random, and so are the detections', 'current', logging.WARNING
        )
    else:
        model.load_state_dict(check_state_dict(model, saved, path), strict=False)
    model.cfg = cfg
    model.dataset_meta = find_meta(cfg, saved, path, palette)
    return model.to(device).eval()


def pick_device(device: str | None) -> str:
    """Return ``device``, or the best there is for None; ValueError if there is no such."""
    if device is None:
        return get_device()
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise ValueError(f'device {device!r}: {str(error).splitlines()[0]}') from None
    if kind == 'cuda' and not torch.cuda.is_available():
        raise ValueError(f"device {device!r}: there is no CUDA here; use device='cpu'")
    return device


def find_meta(cfg: Config, saved: dict | None, path: str, palette: Any = 'none') -> dict:
    """Find ``classes`` and ``palette``: the checkpoint's, or those of the config's data sets, or COCO's.

    Returns:
        The metainfo; ``palette`` is a list of (R, G, B) from 0 to 255, one for each class. No annotations are read.

    Raises:
        ValueError: an unknown palette.
    """
    meta = (None if saved is None else dataset_meta(saved)) or _config_meta(cfg)
    if meta is None:
        print_log("neither the checkpoint nor the config names the classes: taking COCO's", 'current', logging.WARNING)
        meta = dict(classes=COCO_CLASSES)
    colours = meta.get('palette') if palette in (None, 'none') else palette
    try:
        colours = get_palette(colours, len(meta['classes']))
    except ValueError as error:
        if colours is palette:
            raise
        source = 'config' if saved is None else f'checkpoint {path}'
        raise ValueError(f'{source}: its metainfo has the {error}') from None
    return dict(meta, palette=[tuple(colour) for colour in colours.tolist()])


def _config_meta(cfg: Config) -> dict | None:
    for part in ('test', 'train'):
        dataset = inner_dataset((cfg.get(f'{part}_dataloader') or {}).get('dataset') or {})
        if not dataset:
            continue
        try:
            meta = DATASETS.build(dict(dataset, pipeline=[], lazy_init=True)).metainfo
        except (KeyError, TypeError) as error:  # a data set of another toolbox, or not of mmengine's
            print_log(f'{part}_dataloader.dataset: its classes cannot be read ({error})', 'current', logging.WARNING)
            continue
        if meta.get('classes'):
            return meta
    return None


def build_pipeline(cfg: Config) -> Callable[[dict], dict]:
    """Build the config's test pipeline, from what :func:`describe` says to what the model takes, without annotations.

    Raises:
        ValueError: the pipeline has no LoadImageFromFile.
    """
    steps = [step for step in get_test_pipeline_cfg(cfg) if step_name(step) != 'LoadAnnotations']
    kinds = [step_name(step) for step in steps]
    at = next((i for i, kind in enumerate(kinds) if kind in LOADERS), None)
    if at is None:
        raise ValueError(f'test_dataloader.dataset.pipeline: must begin with LoadImageFromFile, has {", ".join(kinds)}')
    from_file, from_array = (
        Compose(steps[:at] + [dict(steps[at], type=f'mmdet.{kind}')] + steps[at + 1 :]) for kind in LOADERS
    )
    return lambda image: (from_array if 'img' in image else from_file)(image)


def describe(image: Image) -> dict:
    """Return what a pipeline starts from; FileNotFoundError or TypeError for what is no image."""
    if isinstance(image, np.ndarray):
        return dict(img=image)
    if not isinstance(image, (str, Path)):
        raise TypeError(f'an image must be a path or an array (H, W, 3) of uint8, in the order BGR, got {type(image)}')
    if '://' not in str(image) and not os.path.isfile(image):
        raise FileNotFoundError(f'image {image}: no such file')
    return dict(img_path=str(image))


def inference_detector(
    model: BaseModel, imgs: Image | Sequence[Image], test_pipeline: Callable | None = None
) -> DetDataSample | list[DetDataSample]:
    """Detect objects in images, one after the other.

    Args:
        model: of :func:`init_detector`.
        imgs: a path, or an array (H, W, 3) of uint8 in the order BGR; or a list or tuple of these.
        test_pipeline: to use instead of the config's.

    Returns:
        For one image a data sample, whose ``pred_instances`` has bboxes (K, 4), scores (K,), labels (K,) and, with a
        mask head, masks (K, H, W) bool, all in pixels of the image. For a list a list.

    Raises:
        FileNotFoundError, TypeError, ValueError: no image, by its path or shape.

    Example:
        Boxes and class names of what is likely there::

            found = inference_detector(model, 'image.jpg').pred_instances
            found = found[found.scores > 0.5]
            found.bboxes, [model.dataset_meta['classes'][label] for label in found.labels]
    """
    many = isinstance(imgs, (list, tuple))
    images = cast(Sequence[Image], imgs if many else [imgs])
    pipeline = build_pipeline(model.cfg) if test_pipeline is None else test_pipeline
    was_training = model.training
    if was_training:
        print_log(
            'inference_detector: the model is in training mode; detecting in evaluation mode',
            'current',
            logging.WARNING,
        )
        model.eval()
    try:
        with torch.no_grad():
            results = [
                model.test_step(pseudo_collate([pipeline(dict(describe(image), img_id=0))]))[0] for image in images
            ]
    finally:
        model.train(was_training)
    return results if many else results[0]
