"""Draws data samples and hands the pictures to mmengine's backends."""

import logging
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from mmengine.logging import print_log
from mmengine.structures import InstanceData
from mmengine.visualization import Visualizer

from mmdet.io.atomic import write_atomic
from mmdet.registry import VISUALIZERS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks, PolygonMasks

from .display import check_display
from .draw import draw_instances, enlarge, readable_factor
from .palette import get_palette, neighbour_colours

NO_BOXES = np.zeros((0, 4))
Colour = str | Sequence | None


@VISUALIZERS.register_module()
class DetLocalVisualizer(Visualizer):
    """Draws ground truth and detections on images, for files, windows and mmengine's backends.

    ``dataset_meta['classes']`` names the classes, ``dataset_meta['palette']`` are their colours; the masks of a class
    are shades of it. With one class neighbours have different colours. Ignored regions of the ground truth are grey and
    hatched. Labels that would hide another label or a small object are left out or shortened.

    Args:
        name, image, vis_backends, save_dir: as in mmengine's Visualizer.
        bbox_color, mask_color: a colour for all, or a list by class (see :func:`get_palette`); by default those of
            ``dataset_meta``, and for masks those of the boxes.
        text_color: likewise; by default black or white, whichever can be read on the label.
        line_width: in pixels; by default by the size of the picture.
        alpha: opacity of the masks, 0 to 1.

    Raises:
        ValueError: a colour there is not, an ``alpha`` out of its range.

    Example:
        A picture of what a detector finds::

            visualizer = DetLocalVisualizer()
            visualizer.dataset_meta = model.dataset_meta
            image = mmcv.imread('image.jpg', channel_order='rgb')
            visualizer.add_datasample('first', image, inference_detector(model, 'image.jpg'), out_file='found.png')
    """

    def __init__(
        self,
        name: str = 'visualizer',
        image: np.ndarray | None = None,
        vis_backends=None,
        save_dir: str | None = None,
        bbox_color: Colour = None,
        text_color: Colour = None,
        mask_color: Colour = None,
        line_width: float | None = None,
        alpha: float = 0.45,
    ) -> None:
        super().__init__(name=name, image=image, vis_backends=vis_backends, save_dir=save_dir)
        for color in (bbox_color, text_color, mask_color):
            get_palette(color, 1)  # refused here and not at the first picture
        if not 0 <= alpha <= 1:
            raise ValueError(f'{type(self).__name__}: alpha must be from 0 to 1, got {alpha}')
        self.bbox_color = bbox_color
        self.text_color = text_color
        self.mask_color = mask_color
        self.line_width = line_width
        self.alpha = alpha

    def add_datasample(
        self,
        name: str,
        image: np.ndarray,
        data_sample=None,
        draw_gt: bool = True,
        draw_pred: bool = True,
        show: bool = False,
        wait_time: float = 0,
        out_file: str | None = None,
        pred_score_thr: float = 0.3,
        step: int = 0,
    ) -> None:
        """Draw one image: ground truth on the left and detections on the right where both are asked for.

        ``get_image()`` then returns the picture, as large as the image. In files, windows and backends small images
        are enlarged so that the labels can be read.

        Args:
            name: of the picture in the backends.
            image: (H, W, 3) uint8, RGB.
            data_sample: DetDataSample with boxes in pixels of ``image``.
            show: in a window; left out with a warning where there is no display.
            wait_time: seconds that the window stays; 0 waits for the space key.
            out_file: where to write the picture; without it the backends get it.
            pred_score_thr: detections with a lower score are left out.
            step: of the backends.

        Raises:
            ValueError: the ending of ``out_file`` is that of no picture format.
        """
        shown = [] if data_sample is None else self._select(data_sample, draw_gt, draw_pred, pred_score_thr)
        plain = self._draw(image, shown, 1)
        self.set_image(plain)
        if out_file is None and not show and not self._vis_backends:
            return
        factor = readable_factor(image, np.concatenate([each.bboxes.cpu().numpy() for each in shown] or [NO_BOXES]))
        large = self._draw(image, shown, factor) if factor > 1 else plain
        if show:
            self._show(large, name, wait_time)
        if out_file is None:
            self.add_image(name, large, step)
            return
        try:
            data = cv2.imencode('.' + out_file.rsplit('.', 1)[-1], large[..., ::-1])[1]
        except cv2.error:
            raise ValueError(f'{out_file}: no picture format of this ending; use .png or .jpg') from None
        write_atomic(data.tobytes(), out_file)

    def picture(
        self,
        image: np.ndarray,
        data_sample: DetDataSample,
        draw_gt: bool,
        draw_pred: bool,
        pred_score_thr: float,
        factor: int,
    ) -> np.ndarray:
        """Return what :meth:`add_datasample` draws, ``factor`` times as large as the image, without keeping it.

        Args:
            image: (H, W, 3) uint8, RGB.
            data_sample: with boxes in pixels of ``image``.
            draw_gt, draw_pred: what is drawn; with both side by side.
            pred_score_thr: detections with a lower score are left out.
            factor: a whole number.

        Returns:
            (factor * H, factor * W, 3) uint8, RGB, or twice as wide.
        """
        return self._draw(image, self._select(data_sample, draw_gt, draw_pred, pred_score_thr), factor)

    def get_image(self) -> np.ndarray:
        """Return the last :meth:`add_datasample`'s picture, and what else was drawn on it; (H, W, 3) uint8, RGB."""
        axes = self.ax_save
        if len(axes.images) == 1 and not (axes.patches or axes.lines or axes.texts or axes.collections):
            return self._image.copy()  # not by way of matplotlib, of which some versions move it by half a pixel
        return super().get_image()

    def _show(self, picture: np.ndarray, name: str, wait_time: float) -> None:
        try:
            check_display()  # mmengine would wait for a key for ever
        except RuntimeError as error:
            print_log(
                f'{name}: {error}, so the picture is not shown; give out_file to write it', 'current', logging.WARNING
            )
            return
        self.show(picture, win_name=name, wait_time=wait_time)

    @staticmethod
    def _select(data_sample: DetDataSample, draw_gt: bool, draw_pred: bool, score_thr: float) -> list[InstanceData]:
        """What is drawn, a list of one or two; ignored regions are marked in the field ``ignored``."""
        shown = []
        if draw_gt and 'bboxes' in data_sample.get('gt_instances', ()):
            shown.append(_with_ignored(data_sample.gt_instances, data_sample.get('ignored_instances')))
        if draw_pred and 'pred_instances' in data_sample:
            found = data_sample.pred_instances
            shown.append(found[found.scores > score_thr])
        return shown

    def _draw(self, image: np.ndarray, shown: list[InstanceData], factor: int) -> np.ndarray:
        """The image, enlarged, with each of ``shown`` on it, side by side."""
        parts = [self._draw_instances(image, instances, factor) for instances in shown]
        if len(parts) < 2:
            return parts[0] if parts else enlarge(image, factor)
        picture, width = np.concatenate(parts, axis=1), parts[0].shape[1]
        picture[:, width - 1], picture[:, width] = 0, 255  # on dark ground nobody sees where the second begins
        return picture

    def _draw_instances(self, image: np.ndarray, instances: InstanceData, factor: int) -> np.ndarray:
        masks = instances.get('masks')
        scores = instances.get('scores')
        bboxes = instances.bboxes.cpu().numpy()
        labels = instances.labels.cpu().numpy()
        meta = self.dataset_meta or {}
        classes = meta.get('classes', ())
        number = max(len(classes), labels.max(initial=-1) + 1)

        def by_label(color: Colour) -> np.ndarray | None:
            return None if color is None else get_palette(color, number)[labels]

        mask_colours = by_label(self.mask_color)
        if self.bbox_color is not None:
            colours = get_palette(self.bbox_color, number)[labels]
        elif len(classes) == 1:
            colours = neighbour_colours(bboxes)
            mask_colours = colours if mask_colours is None else mask_colours
        else:
            colours = get_palette(meta.get('palette'), number)[labels]
        return draw_instances(
            image,
            bboxes,
            labels,
            classes,
            colours,
            None if scores is None else scores.cpu().numpy(),
            None if masks is None else _mask_array(masks),
            mask_colours,
            by_label(self.text_color),
            self.line_width,
            self.alpha,
            factor,
            instances.get('ignored'),
        )


def _mask_array(masks: torch.Tensor | BitmapMasks | PolygonMasks) -> np.ndarray:
    """Masks as (N, H, W) bool or uint8."""
    return masks.cpu().numpy() if isinstance(masks, torch.Tensor) else masks.to_ndarray()


def _with_ignored(instances: InstanceData, ignored: InstanceData | None) -> InstanceData:
    """Both together, with a field ``ignored`` (N,) bool."""
    if ignored is None or not len(ignored):
        return instances
    both = InstanceData(ignored=np.repeat([False, True], [len(instances), len(ignored)]))
    for key in ('bboxes', 'labels'):
        both[key] = torch.cat([instances[key], ignored[key]])
    if 'masks' in instances and 'masks' in ignored:
        masks = [_mask_array(each.masks) for each in (instances, ignored)]
        size = np.max([mask.shape[1:] for mask in masks], axis=0)  # in a batch only those of instances are padded
        both.masks = torch.from_numpy(
            np.concatenate(
                [
                    np.pad(mask, [(0, 0), *((0, side - own) for side, own in zip(size, mask.shape[1:]))])
                    for mask in masks
                ]
            )
        )
    return both
