"""What every detector does: losses, detections or raw outputs of a batch."""

from abc import ABCMeta, abstractmethod
from typing import Any, cast

from mmengine.model import BaseModel
from mmengine.structures import InstanceData
from torch import Tensor


class BaseDetector(BaseModel, metaclass=ABCMeta):
    """Computes losses or detections of a batch; a detector of one's own overrides the four methods without a body.

    Args:
        data_preprocessor: for instance :class:`.DetDataPreprocessor`, which makes a batch of what the data loader
            gives.
        init_cfg: of the whole model, for instance ``dict(type='Pretrained', checkpoint=...)``.
    """

    def __init__(self, data_preprocessor: dict | None = None, init_cfg: dict | list | None = None) -> None:
        super().__init__(data_preprocessor, init_cfg)

    def _has(self, *names: str) -> bool:
        part: Any = self
        for name in names:
            part = getattr(part, name, None)
        return part is not None

    @property
    def with_neck(self) -> bool:
        """Return whether there is a neck."""
        return self._has('neck')

    @property
    def with_shared_head(self) -> bool:
        """Return whether there are layers between the regions' features and both heads."""
        return self._has('roi_head', 'shared_head')

    @property
    def with_bbox(self) -> bool:
        """Return whether there is a box head."""
        return self._has('roi_head', 'bbox_head') or self._has('bbox_head')

    @property
    def with_mask(self) -> bool:
        """Return whether there is a mask head."""
        return self._has('roi_head', 'mask_head') or self._has('mask_head')

    def forward(self, inputs: Tensor, data_samples: list | None = None, mode: str = 'tensor') -> dict | list | tuple:
        """Compute losses, detections or raw outputs, by ``mode``.

        Args:
            inputs: normalized images (N, 3, H, W).
            data_samples: a DetDataSample for each image, with ground truth for the losses; not needed for 'tensor'.
            mode: 'loss', 'predict' or 'tensor'.

        Returns:
            What :meth:`loss` returns, a dict; what :meth:`predict` returns, a list; or what the heads say, a tuple.

        Raises:
            ValueError: another mode.
        """
        if mode == 'loss':
            return self.loss(inputs, cast(list, data_samples))
        if mode == 'predict':
            return self.predict(inputs, cast(list, data_samples))
        if mode == 'tensor':
            return self._forward(inputs, data_samples)
        raise ValueError(f"forward: mode must be 'loss', 'predict' or 'tensor', got {mode!r}")

    @abstractmethod
    def extract_feat(self, batch_inputs: Tensor) -> tuple[Tensor, ...]:
        """Compute the feature maps (N, C_i, H_i, W_i) of normalized images (N, 3, H, W), the largest first."""

    @abstractmethod
    def loss(self, batch_inputs: Tensor, batch_data_samples: list) -> dict:
        """Compute all losses of normalized images (N, 3, H, W) with N DetDataSamples that have ``gt_instances``."""

    @abstractmethod
    def predict(self, batch_inputs: Tensor, batch_data_samples: list) -> list:
        """Detect objects in normalized images (N, 3, H, W), and return N DetDataSamples with ``pred_instances``."""

    @abstractmethod
    def _forward(self, batch_inputs: Tensor, batch_data_samples: list | None = None) -> tuple:
        """What the heads say of normalized images (N, 3, H, W)."""

    def add_pred_to_datasample(self, data_samples: list, results_list: list[InstanceData]) -> list:
        """Put each image's detections into its DetDataSample, as ``pred_instances``, and return the samples."""
        for sample, instances in zip(data_samples, results_list):
            sample.pred_instances = instances
        return data_samples
