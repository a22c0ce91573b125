"""Draws data samples and hands the pictures to mmengine's backends."""
from typing import Optional

import cv2
import numpy as np
import torch
from mmengine.structures import InstanceData
from mmengine.visualization import Visualizer

from mmdet.registry import VISUALIZERS
from mmdet.utils.atomic_io import write_atomic

from .draw import draw_instances


@VISUALIZERS.register_module()
class DetLocalVisualizer(Visualizer):
    """Pictures of ground truth and detections; ``dataset_meta['classes']`` names the classes."""

    def add_datasample(self, name: str, image: np.ndarray, data_sample=None, draw_gt: bool = True,
                       draw_pred: bool = True, out_file: Optional[str] = None, pred_score_thr: float = 0.3,
                       step: int = 0, **kwargs) -> np.ndarray:
        """Draw one image: ground truth on the left and detections on the right where both are asked for.

        Args:
            name: of the picture in the backends.
            image: (H, W, 3) uint8, RGB.
            data_sample: DetDataSample with boxes in pixels of ``image``.
            out_file: where to write the picture; without it the backends get it.
            pred_score_thr: detections with a lower score are left out.
            step: of the backends.

        Returns:
            The picture, (H', W', 3) uint8, RGB.
        """
        pictures = []
        if data_sample is not None and draw_gt and 'gt_instances' in data_sample:
            pictures.append(self._draw(image, data_sample.gt_instances))
        if data_sample is not None and draw_pred and 'pred_instances' in data_sample:
            found = data_sample.pred_instances
            pictures.append(self._draw(image, found[found.scores > pred_score_thr]))
        picture = np.concatenate(pictures, axis=1) if pictures else image
        if out_file is not None:
            done, data = cv2.imencode('.' + out_file.rsplit('.', 1)[-1], picture[..., ::-1])
            if not done:
                raise ValueError(f'{out_file}: no picture format of this ending; use .png or .jpg')
            write_atomic(data.tobytes(), out_file)
        else:
            self.add_image(name, picture, step)
        return picture

    def _draw(self, image: np.ndarray, instances: InstanceData) -> np.ndarray:
        masks = instances.get('masks')
        if masks is not None:
            masks = masks.cpu().numpy() if isinstance(masks, torch.Tensor) else masks.to_ndarray()
        scores = instances.get('scores')
        classes = (self.dataset_meta or {}).get('classes', ())
        return draw_instances(image, instances.bboxes.cpu().numpy(), instances.labels.cpu().numpy(), classes,
                              None if scores is None else scores.cpu().numpy(), masks, by_instance=len(classes) == 1)
