"""Pictures of detections in validation and testing."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import mmcv
from mmengine import fileio
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmdet.registry import HOOKS
from mmdet.structures import DetDataSample


@HOOKS.register_module()
class DetVisualizationHook(Hook):
    """Draws the detections of validation and test on the images.

    Args:
        draw: nothing is drawn without it.
        interval: in validation every so many images go to the visualizer's backends.
        score_thr: detections with a lower score are left out.
        show: pictures in windows, each for ``wait_time`` seconds, or with 0 until the space key.
        wait_time: seconds that a window stays.
        test_out_dir: in testing every image's picture is written here, under the image's name, with its id where there
            are several of one name.
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
        self.draw = draw
        self.interval = interval
        self.score_thr = score_thr
        self.show = show
        self.wait_time = wait_time
        self.test_out_dir = test_out_dir
        self.backend_args = backend_args
        self._repeated: set[str] = set()

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
        """Look for images of one name in several folders, whose pictures get the image's id."""
        data = runner.test_loop.dataloader.dataset
        if self.draw and self.test_out_dir and hasattr(data, 'get_data_info'):
            stems = Counter(Path(data.get_data_info(i)['img_path']).stem for i in range(len(data)))
            self._repeated = {stem for stem, number in stems.items() if number > 1}

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: Sequence | None = None
    ) -> None:
        """Draw every image of the batch."""
        if not self.draw or outputs is None:
            return
        for sample in outputs:
            stem = Path(sample.img_path).stem
            name = f'{stem}_{sample.img_id}.png' if stem in self._repeated else f'{stem}.png'
            self._draw(runner, sample, batch_idx, str(Path(self.test_out_dir) / name) if self.test_out_dir else None)

    def _draw(self, runner: Runner, sample: DetDataSample, step: int, out_file: str | None) -> None:
        image = mmcv.imfrombytes(fileio.get(sample.img_path, self.backend_args), channel_order='rgb')
        runner.visualizer.add_datasample(
            Path(sample.img_path).stem,
            image,
            sample,
            draw_gt=False,
            show=self.show,
            wait_time=self.wait_time,
            out_file=out_file,
            pred_score_thr=self.score_thr,
            step=step,
        )
