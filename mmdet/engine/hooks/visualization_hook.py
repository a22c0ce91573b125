"""Pictures of detections, beside what is annotated, in validation and testing."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
from mmengine import fileio
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs
from mmdet.registry import HOOKS
from mmdet.structures import DetDataSample


def with_truth(sample: DetDataSample, info: dict | None, image: np.ndarray) -> DetDataSample:
    """Return the detections of a sample with what is annotated in its image, in pixels of the original image.

    Args:
        sample: with ``pred_instances``; its ``gt_instances``, if any, count where ``info`` has no list of instances.
        info: of the image, as the data set's ``get_data_info`` has it, or None.
        image: (H, W, 3), the original one.

    Returns:
        A new sample; without ``gt_instances`` where nothing is annotated.
    """
    truth = sample
    if info is not None and 'instances' in info:
        loaded = LoadAnnotations(with_mask='masks' in sample.pred_instances)(dict(info, ori_shape=image.shape[:2]))
        truth = PackDetInputs()(dict(loaded, img=image))['data_samples']
    shown = DetDataSample(pred_instances=sample.pred_instances)
    ignored = truth.get('ignored_instances', ())
    if 'gt_instances' in truth and len(truth.gt_instances) + len(ignored):
        shown.gt_instances = truth.gt_instances
        if len(ignored):
            shown.ignored_instances = ignored
    return shown


@HOOKS.register_module()
class DetVisualizationHook(Hook):
    """Draws the images of validation and test: on the left what is annotated, on the right what was detected.

    The annotations are the data set's own, so that the pipeline need not load them. Images without any get the
    detections alone.

    Args:
        draw: nothing is drawn without it.
        interval: in validation every so many images go to the visualizer's backends.
        score_thr: detections with a lower score are left out.
        show: pictures in windows, each for ``wait_time`` seconds, or with 0 until the space key.
        wait_time: seconds that a window stays.
        test_out_dir: in testing every image's picture is written into this folder of the run's own, WORK_DIR/TIMESTAMP
            (an absolute path stays as it is), under the image's name, with its id where there are several of one name.
        backend_args: of the images' file backend.

    Example:
        In a config, every tenth image of a validation in TensorBoard, or where else the visualizer's backends write::

            default_hooks = dict(visualization=dict(type='DetVisualizationHook', draw=True, interval=10))
    """

    def __init__(
        self,
        draw: bool = False,
        interval: int = 50,
        score_thr: float = 0.3,
        show: bool = False,
        wait_time: float = 0,
        test_out_dir: str | None = None,
        backend_args: dict | None = None,
    ) -> None:
        if interval < 1:
            raise ValueError(f'DetVisualizationHook: interval must be a number of images, 1 or more, got {interval}')
        self.draw = draw
        self.interval = interval
        self.score_thr = score_thr
        self.show = show
        self.wait_time = wait_time
        self.test_out_dir = test_out_dir
        self.backend_args = backend_args
        self._test_index = 0
        self._repeated: set[str] = set()
        self._dataset: Any = None
        self._positions: dict[tuple, int] = {}

    def before_val(self, runner: Runner) -> None:
        """Find the data set's images by path and id."""
        self._look_up(runner.val_loop.dataloader.dataset)

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: Sequence | None = None
    ) -> None:
        """Draw every ``interval``-th image of the validation."""
        if not self.draw or outputs is None:
            return
        first = batch_idx * len(outputs)
        for i, sample in enumerate(outputs):
            if (first + i) % self.interval == 0:
                self._draw(runner, sample, runner.iter, None)

    def before_test(self, runner: Runner) -> None:
        """As :meth:`before_val`; and find those of one name in several folders, whose pictures get the image's id."""
        self._look_up(runner.test_loop.dataloader.dataset)
        stems = Counter(Path(path).stem for path, _ in self._positions)
        self._repeated = {stem for stem, number in stems.items() if number > 1}

    def _look_up(self, dataset: Any) -> None:
        if self.draw and dataset is not self._dataset and hasattr(dataset, 'get_data_info'):
            infos = map(dataset.get_data_info, range(len(dataset)))
            self._positions = {(info['img_path'], info.get('img_id')): i for i, info in enumerate(infos)}
            self._dataset = dataset

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: Sequence | None = None
    ) -> None:
        """Draw every image of the batch."""
        if not self.draw or outputs is None:
            return
        for sample in outputs:
            path, out_file = Path(sample.img_path), None
            if self.test_out_dir is not None:
                folder = Path(runner.work_dir) / runner.timestamp / self.test_out_dir
                folder.mkdir(parents=True, exist_ok=True)
                number = f'_{sample.img_id}' if path.stem in self._repeated else ''
                suffix = path.suffix if cv2.haveImageWriter(path.name) else '.png'
                out_file = str(folder / f'{path.stem}{number}{suffix}')
            self._test_index += 1
            self._draw(runner, sample, self._test_index, out_file)

    def _draw(self, runner: Runner, sample: DetDataSample, step: int, out_file: str | None) -> None:
        image = mmcv.imfrombytes(fileio.get(sample.img_path, self.backend_args), channel_order='rgb')
        position = self._positions.get((sample.img_path, sample.get('img_id')))
        info = None if position is None else self._dataset.get_data_info(position)
        runner.visualizer.add_datasample(
            Path(sample.img_path).stem,
            image,
            with_truth(sample, info, image),
            show=self.show,
            wait_time=self.wait_time,
            out_file=out_file,
            pred_score_thr=self.score_thr,
            step=step,
        )
