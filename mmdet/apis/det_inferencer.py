"""Detections and pictures of many images, into memory and files."""

import copy
import itertools
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import mmcv
import numpy as np
from mmengine import fileio
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.infer import BaseInferencer
from mmengine.logging import print_log
from mmengine.registry import init_default_scope
from mmengine.visualization import Visualizer
from rich.pretty import pprint
from torch import nn

from mmdet.config import config_names, find_config, load_config, no_imports, saved_config
from mmdet.io.atomic import write_atomic
from mmdet.io.checkpoint import read_checkpoint
from mmdet.io.published import place_of
from mmdet.run.prepare import setup
from mmdet.run.progress import track
from mmdet.structures import DetDataSample
from mmdet.structures.mask import encode_mask_results
from mmdet.visualization import DetLocalVisualizer

from .inference import Image, build_detector, build_pipeline, describe

#: endings of what is read from a folder
ENDINGS = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif', '.tiff', '.webp')


class DetInferencer(BaseInferencer):
    """Detects objects in files, folders and arrays, and writes pictures and JSON files of them.

    Args:
        model: a config file, a Config or dict, or the name of one of this repository's configs, for instance
            'mask-rcnn_r50_fpn_1x_coco'; None for the config in ``weights``, or of this name.
        weights: a checkpoint, a file or URL, or the name of a config with published weights. Without it they are those
            of ``model`` if that is a name, and else random.
        device: by default the first GPU, or else the CPU.
        scope: in which the config's parts are looked up.
        palette: colours of the classes, see :func:`mmdet.visualization.get_palette`; 'none' for the checkpoint's or
            config's.
        show_progress: a bar.
        trust_checkpoint: unpickle whatever the checkpoint holds, which may run any code.

    Raises:
        FileNotFoundError, KeyError, TypeError, ValueError: as :func:`init_detector`; a name that no config has, or one
            without published weights.

    Example:
        Pictures go to ``out/vis``, detections to ``out/preds``::

            inferencer = DetInferencer(weights='epoch_12.pth')
            results = inferencer('folder/', batch_size=4, out_dir='out', no_save_pred=False)
            results['predictions'][0]['bboxes']  # [[x1, y1, x2, y2], ...] in pixels of the first image
    """

    def __init__(
        self,
        model: None | str | Path | dict | Config = None,
        weights: str | None = None,
        device: str | None = None,
        scope: str = 'mmdet',
        palette: Any = 'none',
        show_progress: bool = True,
        *,
        trust_checkpoint: bool = False,
    ) -> None:
        if model is None and weights is None:
            raise ValueError('DetInferencer: give a model (a config or its name), weights, or both')
        setup()
        init_default_scope(scope)
        self.palette = palette
        self.num_images = 0  # so far, for the names of arrays
        if model is None and not os.path.isfile(str(weights)) and place_of(str(weights)):
            model = str(weights)
        if isinstance(model, (str, Path)) and not os.path.isfile(model):
            name, model = str(model), find_config(str(model))
            weights = name.removesuffix('.py') if weights is None else weights
        self._saved = None if weights is None else read_checkpoint(str(weights), trust_checkpoint)
        building = nullcontext if model is not None else no_imports
        if model is None:
            model = saved_config(cast(dict, self._saved), str(weights))
        elif isinstance(model, (str, Path)):
            model = load_config(str(model))
        elif not isinstance(model, Config):
            model = Config(copy.deepcopy(dict(model)))
        with building():
            super().__init__(model, weights, device, scope, show_progress)
        del self._saved

    # -- the parts, as BaseInferencer asks for them --------------------------------------------------------------

    def _init_model(self, cfg: Config, weights: str | None, device: str = 'cpu') -> nn.Module:
        return build_detector(cfg, self._saved, str(weights), self.palette, device)

    def _init_pipeline(self, cfg: Config) -> Callable[[dict], dict]:
        return build_pipeline(cfg)

    def _init_collate(self, cfg: Config) -> Callable[[Sequence], dict]:
        return pseudo_collate

    def _init_visualizer(self, cfg: Config) -> Visualizer:
        if 'visualizer' in cfg:
            cfg.visualizer.pop('vis_backends', None)  # pictures go to out_dir
            visualizer = super()._init_visualizer(cfg)
        else:
            visualizer = DetLocalVisualizer()
        visualizer.dataset_meta = self.model.dataset_meta
        return visualizer

    # -- running -------------------------------------------------------------------------------------------------

    def __call__(
        self,
        inputs: Image | Sequence[Image],
        batch_size: int = 1,
        return_vis: bool = False,
        show: bool = False,
        wait_time: float = 0,
        no_save_vis: bool = False,
        draw_pred: bool = True,
        pred_score_thr: float = 0.3,
        return_datasamples: bool = False,
        print_result: bool = False,
        no_save_pred: bool = True,
        out_dir: str = '',
    ) -> dict:
        """Detect objects in images, draw them, and write pictures and detections.

        Args:
            inputs: a path, a folder (its images by name), an array (H, W, 3) of uint8 in the order BGR; or a list of
                paths and arrays.
            batch_size: images at a time.
            return_vis: return pictures.
            show: pictures in windows, each for ``wait_time`` seconds, or with 0 until the space key.
            no_save_vis, no_save_pred: write no pictures, no detections into ``out_dir``.
            draw_pred: draw the detections.
            pred_score_thr: in pictures detections with a lower score are left out.
            return_datasamples: data samples instead of dicts.
            print_result: print the detections.
            out_dir: for vis/NAME and preds/STEM.json. Arrays are named by their number. An image with the stem of
                another one of this call has a number appended.

        Returns:
            ``predictions``, for each image a dict of ``labels``, ``scores``, ``bboxes`` ([x1, y1, x2, y2] in pixels of
            the image) and, with a mask head, ``masks`` (COCO's compressed run-length encodings); ``visualization``, (H,
            W, 3) uint8 pictures, RGB for a file and in the order of an array, if they are returned, shown or written.

        Raises:
            FileNotFoundError, TypeError, ValueError: no image, by its path or shape; a batch size below 1.
        """
        if batch_size < 1:
            raise ValueError(f'batch_size must be 1 or more, got {batch_size}')
        images = self._inputs_to_list(inputs)
        names = unique_names(images, self.num_images, warn=bool(out_dir))
        results: dict[str, list] = dict(predictions=[], visualization=[])
        batches = self.batches(images, names, batch_size)
        if self.show_progress:
            batches = track(batches, 'Inference', -(-len(images) // batch_size))
        for some, own_names, samples in batches:
            if return_vis or show or (out_dir and not no_save_vis):
                folder = '' if no_save_vis else out_dir
                results['visualization'] += self.visualize(
                    some, samples, own_names, show, wait_time, draw_pred, pred_score_thr, folder
                )
            folder = '' if no_save_pred else out_dir
            results['predictions'] += self.postprocess(samples, own_names, return_datasamples, folder)
            self.num_images += len(samples)
        if print_result:
            pprint(dict(predictions=results['predictions']))
        return results

    def batches(
        self,
        images: Sequence[Image],
        names: Sequence[str],
        batch_size: int,
        skip: Callable[[Image, Exception], None] | None = None,
    ) -> Iterator[tuple[list[Image], list[str], list[DetDataSample]]]:
        """Detect objects a batch at a time.

        Args:
            images: paths, or arrays (H, W, 3) of uint8 in the order BGR.
            names: of the images, passed on.
            batch_size: images at a time.
            skip: told of an image that cannot be read and why, after which the others go on; None lets the error
                through.

        Yields:
            The images of a batch that could be read, their names and their data samples.
        """
        for start in range(0, len(images), batch_size):
            data, read = [], []
            for i in range(start, min(start + batch_size, len(images))):
                try:
                    data.append(self.pipeline(describe(images[i])))
                except (FileNotFoundError, ValueError) as error:
                    if skip is None:
                        raise
                    skip(images[i], error)
                else:
                    read.append(i)
            if read:
                yield [images[i] for i in read], [names[i] for i in read], self.forward(self.collate_fn(data))

    def _inputs_to_list(self, inputs: Image | Sequence[Image]) -> list[Image]:
        if isinstance(inputs, (list, tuple)):
            return list(inputs)
        if isinstance(inputs, (str, Path)) and os.path.isdir(inputs):
            found = sorted(path for path in Path(inputs).iterdir() if path.suffix.lower() in ENDINGS)
            if not found:
                print_log(f'folder {inputs}: holds no images ({" ".join(ENDINGS)})', 'current', logging.WARNING)
            return [str(path) for path in found]
        return [cast(Image, inputs)]

    def visualize(
        self,
        inputs: Sequence[Image],
        preds: Sequence[DetDataSample],
        names: Sequence[str],
        show: bool = False,
        wait_time: float = 0,
        draw_pred: bool = True,
        pred_score_thr: float = 0.3,
        out_dir: str = '',
    ) -> list[np.ndarray]:
        """Draw detections, and write the pictures into ``out_dir``/vis unless that is empty.

        Args:
            inputs: paths, or arrays (H, W, 3) of uint8 in the order BGR.
            preds: their data samples.
            names: of the pictures' files.
            show, wait_time, draw_pred, pred_score_thr: as of :meth:`__call__`.
            out_dir: the folder above ``vis``.

        Returns:
            For each image a picture (H, W, 3) uint8, RGB for a file and BGR for an array.
        """
        pictures = []
        for image, sample, name in zip(inputs, preds, names):
            rgb = (
                image[..., ::-1]
                if isinstance(image, np.ndarray)
                else mmcv.imfrombytes(fileio.get(str(image)), channel_order='rgb')
            )
            self.visualizer.add_datasample(
                name,
                rgb,
                sample,
                draw_gt=False,
                draw_pred=draw_pred,
                show=show,
                wait_time=wait_time,
                out_file=os.path.join(out_dir, 'vis', name) if out_dir else None,
                pred_score_thr=pred_score_thr,
            )
            picture = self.visualizer.get_image()
            pictures.append(picture[..., ::-1] if isinstance(image, np.ndarray) else picture)
        return pictures

    def postprocess(
        self, preds: Sequence[DetDataSample], names: Sequence[str], return_datasamples: bool = False, out_dir: str = ''
    ) -> list[dict | DetDataSample]:
        """Return data samples or dicts (:meth:`pred2dict`), and write the dicts into ``out_dir``/preds as JSON.

        Args:
            preds: data samples.
            names: of the images; the files have their stems.
            return_datasamples: return ``preds`` themselves.
            out_dir: the folder above ``preds``; if it is empty nothing is written.
        """
        dicts = [self.pred2dict(sample) for sample in preds] if out_dir or not return_datasamples else []
        if out_dir:
            for result, name in zip(dicts, names):
                write_atomic(json.dumps(result).encode(), Path(out_dir, 'preds', f'{os.path.splitext(name)[0]}.json'))
        return list(preds) if return_datasamples else dicts

    def pred2dict(self, data_sample: DetDataSample) -> dict:
        """Return detections as plain numbers and text.

        Returns:
            ``labels``, ``scores`` and ``bboxes`` ([x1, y1, x2, y2] in pixels of the image), lists of K, and with a mask
            head ``masks``, K compressed run-length encodings.
        """
        found = data_sample.pred_instances
        result = dict(labels=found.labels.tolist(), scores=found.scores.tolist(), bboxes=found.bboxes.tolist())
        if 'masks' in found:
            result['masks'] = encode_mask_results(found.masks.cpu().numpy())
        return result

    @staticmethod
    def list_models(scope: str | None = None, patterns: str = '.*') -> list[str]:
        """Return the names of this repository's configs that match a regular expression from their beginning.

        Args:
            scope: not used.
            patterns: the regular expression.
        """
        return [name for name in config_names() if re.match(patterns, name)]


def unique_names(images: Sequence[Image], number: int, warn: bool = False) -> list[str]:
    """Return a file name for the picture of each image, of which no two have the same stem.

    Args:
        images: paths, whose names are taken, or arrays, which are named by their number.
        number: of the first image.
        warn: say which names have a number appended because another image has them.
    """
    wanted = []
    for i, image in enumerate(images, number):
        name = f'{i:08}.jpg' if isinstance(image, np.ndarray) else os.path.basename(str(image))
        stem, ending = os.path.splitext(name)
        wanted.append((stem, ending if ending.lower() in ENDINGS else '.jpg'))
    stems = {stem for stem, _ in wanted}
    taken: set[str] = set()
    names = []
    for image, (stem, ending) in zip(images, wanted):
        own = stem
        if stem in taken:
            own = next(f'{stem}_{i}' for i in itertools.count(1) if f'{stem}_{i}' not in stems | taken)
            if warn:
                print_log(
                    f'{image}: another image is called {stem}, too; its files are called {own}',
                    'current',
                    logging.WARNING,
                )
        taken.add(own)
        names.append(own + ending)
    return names
