"""A validation that a signal ends, with losses if they are asked for."""

import copy
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_gather_object, get_rank
from mmengine.logging import HistoryBuffer
from mmengine.runner import ValLoop as _ValLoop
from mmengine.runner.loops import _parse_losses
from torch.utils.data import DataLoader

from mmdet.config import inner_dataset, step_name
from mmdet.datasets.coco import transforms_of
from mmdet.datasets.files import coco_datasets
from mmdet.datasets.seeding import derive_seed, seeded
from mmdet.registry import LOOPS
from mmdet.run.interrupt import Interrupted, agreed_to_stop, asked_to_stop
from mmdet.run.ranks import bare
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import scale_boxes


@LOOPS.register_module()
class ValLoop(_ValLoop):
    """Validates a model; mmengine's loop, which a signal ends: Interrupted is raised in all processes.

    Args:
        with_loss: compute the losses of the validation set as well, in evaluation mode, without gradient, and with the
            same random samples at each validation. They are among the metrics: ``val_loss``, the sum, and each loss by
            its name, as the mean over the batches of all processes. A pipeline that loads no annotations does then.
        kwargs: as of mmengine's loop.

    Example:
        In a config::

            val_cfg = dict(type='ValLoop', with_loss=True)
    """

    def __init__(self, runner, dataloader: DataLoader | dict, *args, with_loss: bool = False, **kwargs) -> None:
        if with_loss and isinstance(dataloader, dict):
            head = getattr(bare(runner.model), 'roi_head', None)
            dataloader = _annotated(dataloader, with_mask=getattr(head, 'mask_head', None) is not None)
        super().__init__(runner, dataloader, *args, **kwargs)
        self.with_loss = with_loss

    def run_iter(self, idx: int, data_batch: Any) -> None:
        """As in mmengine, with the losses if they are asked for."""
        if self.with_loss:
            self._add_losses(idx, data_batch)
        super().run_iter(idx, data_batch)

    @torch.no_grad()
    def _add_losses(self, idx: int, data_batch: Any) -> None:
        model: Any = bare(self.runner.model)
        samples = copy.deepcopy(data_batch['data_samples'])
        for sample in samples if self._annotated_as_stored() else ():
            _resize_objects(sample)
        with seeded(derive_seed(get_rank(), idx)):
            data = model.data_preprocessor(dict(data_batch, data_samples=samples), False)
            if getattr(model.data_preprocessor, 'pad_mask', False):
                model.data_preprocessor.pad_gt_masks(data['data_samples'])
            losses = model.parse_losses(model._run_forward(data, mode='loss'))[1]
        for name, value in losses.items():
            if 'loss' in name and name != 'loss':
                self.val_loss.setdefault(name, HistoryBuffer()).update(float(value))

    def run(self) -> dict:
        """Run the model over the data set and return the metrics by name.

        Raises:
            Interrupted: a process has received a signal.
        """
        self.runner.call_hook('before_val')
        self.runner.call_hook('before_val_epoch')
        self.runner.model.eval()
        self.val_loss.clear()
        for idx, batch in enumerate(self.dataloader):
            self.run_iter(idx, batch)
            if asked_to_stop():
                break
        # The processes have different numbers of batches: they meet here, and nowhere in between.
        signum = agreed_to_stop()
        if signum:
            raise Interrupted(signum)
        metrics = self.evaluator.evaluate(len(self.dataloader.dataset))
        if self.val_loss:
            metrics.update(_parse_losses(self._all_losses(), 'val'))
        self.runner.call_hook('after_val_epoch', metrics=metrics)
        self.runner.call_hook('after_val')
        return metrics

    def _annotated_as_stored(self) -> bool:
        """Whether the pipeline loads annotations after it has resized the image, as mmdetection's configs do for tests:
        they are of the image as it is stored."""
        for dataset in coco_datasets(self.dataloader.dataset):
            kinds = [type(step).__name__ for step in transforms_of(dataset.pipeline.transforms)]
            if 'LoadAnnotations' in kinds:
                return any('Resize' in kind for kind in kinds[: kinds.index('LoadAnnotations')])
        return False

    def _all_losses(self) -> dict[str, HistoryBuffer]:
        """The losses of the batches of all processes."""
        parts = all_gather_object({name: buffer.data for name, buffer in self.val_loss.items()})
        return {
            name: HistoryBuffer(*np.concatenate([part[name] for part in parts if name in part], 1))
            for name in dict.fromkeys(name for part in parts for name in part)
        }


def _resize_objects(sample: DetDataSample) -> None:
    """Bring a sample's objects from the image as it is stored to the image as it was resized, in place."""
    for objects in (sample.gt_instances, sample.ignored_instances):
        if 'bboxes' in objects:
            objects.bboxes = scale_boxes(objects.bboxes, sample.scale_factor)
        if 'masks' in objects:
            objects.masks = objects.masks.resize(sample.img_shape)


def _annotated(dataloader: dict, with_mask: bool) -> dict:
    """A data loader's config whose pipeline loads annotations, if it did not."""
    dataloader = copy.deepcopy(dataloader)
    pipeline = inner_dataset(dataloader['dataset'], 'pipeline').get('pipeline') or []
    kinds = [step_name(step) for step in pipeline]
    if 'LoadAnnotations' not in kinds and 'PackDetInputs' in kinds:
        step = dict(type='LoadAnnotations', with_bbox=True, with_mask=with_mask)
        pipeline.insert(kinds.index('PackDetInputs'), step)
    return dataloader
