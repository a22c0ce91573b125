"""What data sets have in common, whatever the format of their annotations."""

import logging
from typing import Any

import torch
from mmengine.dataset import BaseDataset, Compose
from mmengine.logging import print_log

from mmdet.mmdetection.arguments import accepts
from mmdet.registry import DATASETS
from mmdet.words import first_line


def _failed_step(error: Exception) -> str:
    """The name of the pipeline's transform that an error comes from, or ''."""
    trace, name = error.__traceback__, ''
    while trace is not None:
        if isinstance(trace.tb_frame.f_locals.get('self'), Compose):
            name = type(trace.tb_frame.f_locals.get('t')).__name__
        trace = trace.tb_next
    return name


@DATASETS.register_module()
@accepts('seg_map_suffix', proposal_file=None, file_client_args=None, return_classes=False, caption_prompt=None)
class BaseDetDataset(BaseDataset):
    """Gives images and objects to a pipeline of transforms; the base of data sets in other formats than COCO's.

    A subclass has METAINFO, ``dict(classes=(...))``, and ``load_data_list``, which returns for each image a dict of
    ``img_id``, ``img_path``, ``height``, ``width`` and ``instances``, a list of dicts: ``bbox`` [x1, y1, x2, y2] in
    pixels of the image, ``bbox_label``, ``ignore_flag`` (1 for a region in which nothing is learned) and, for masks,
    ``mask`` (polygons or a run-length encoding). :class:`.CocoMetric` without an ``ann_file`` evaluates against these.

    Args:
        skip_broken: in training, the largest share of images that may turn out to be unreadable. Each is logged and
            another sample taken in its place; beyond the share, and by default at the first, the error ends the run.
        backend_args: of the images' and annotations' file backend.
        ann_file, metainfo, data_root, data_prefix, filter_cfg, pipeline, test_mode: as in mmengine's BaseDataset, as
            are indices, serialize_data, lazy_init and max_refetch.

    Raises:
        ValueError: a share that is none. FileNotFoundError, TypeError, ValueError: of a sample, what went wrong with
            the image, named by its path.

    Example:
        One line for each object: path, width and height of the image, x1, y1, x2, y2, label::

            @DATASETS.register_module()
            class LinesDataset(BaseDetDataset):
                METAINFO = dict(classes=('cat', 'dog'))

                def load_data_list(self):
                    images = {}
                    for line in open(self.ann_file):
                        path, width, height, *box, label = line.split()
                        image = images.setdefault(path, dict(
                            img_id=path, img_path=path, width=int(width), height=int(height), instances=[]))
                        image['instances'].append(
                            dict(bbox=[float(v) for v in box], bbox_label=int(label), ignore_flag=0))
                    return list(images.values())
    """

    def __init__(self, *args, backend_args: dict | None = None, skip_broken: float = 0, **kwargs) -> None:
        if isinstance(skip_broken, bool) or not isinstance(skip_broken, (int, float)) or not 0 <= skip_broken < 1:
            raise ValueError(
                f'{type(self).__name__}: skip_broken must be a share of the images from 0 to below 1, got '
                f'{skip_broken!r}'
            )
        self.backend_args = backend_args
        self.skip_broken = skip_broken
        self._broken = torch.zeros(0, dtype=torch.bool)
        super().__init__(*args, **kwargs)

    def full_init(self) -> None:
        """Read the annotations and build the pipeline, once; with ``lazy_init=True`` the first sample does it."""
        super().full_init()
        if self.skip_broken and len(self._broken) != len(self):
            self._broken = torch.zeros(len(self), dtype=torch.bool).share_memory_()  # by all workers

    def prepare_data(self, idx: int) -> Any:
        """Load sample ``idx`` and run the pipeline, as in mmengine; return None for a broken image that may be skipped.

        Raises:
            FileNotFoundError, TypeError, ValueError: what the pipeline raised, with the image's path, if broken images
                are not skipped or are more than ``skip_broken`` allows.
        """
        if self.skip_broken and self._broken[idx]:
            return None
        try:
            return super().prepare_data(idx)
        except Exception as error:  # a pipeline can fail in any way
            path = str(self.get_data_info(idx).get('img_path'))
            step = _failed_step(error)
            if step and isinstance(error, KeyError) and not self.skip_broken:
                raise ValueError(
                    f'pipeline: {step} finds no {first_line(error)} in what it gets; is the transform that gives it '
                    f'missing, or behind it? (image {path})'
                ) from error
            text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
            kind = type(error) if type(error) in (FileNotFoundError, TypeError) else ValueError
            if path not in text:
                text = f'image {path}: {type(error).__name__}: {text}'
            if self.test_mode or not self.skip_broken:
                raise kind(text) from error
            self._broken[idx] = True
            number = int(self._broken.sum())
            text += f'; {number} of {len(self)} images are broken so far'
            if number > self.skip_broken * len(self):
                raise kind(f'{text}, more than skip_broken={self.skip_broken:g}') from error
            print_log(f'{text}, another sample is taken', 'current', logging.WARNING)
            return None

    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the labels of an image's objects, for data sets that draw rare classes more often."""
        return [instance['bbox_label'] for instance in self.get_data_info(idx)['instances']]
