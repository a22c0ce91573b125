"""Pictures of detections in validation and testing."""
from pathlib import Path
from typing import Optional, Sequence

import mmcv
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmdet.registry import HOOKS


@HOOKS.register_module()
class DetVisualizationHook(Hook):
    """Draws detections beside the ground truth.

    Args:
        draw: nothing is drawn without it.
        interval: in validation every so many images go to the visualizer's backends.
        score_thr: detections with a lower score are left out.
        test_out_dir: in testing every image's picture is written here, under the image's name.
    """

    def __init__(self, draw: bool = False, interval: int = 50, score_thr: float = 0.3,
                 test_out_dir: Optional[str] = None) -> None:
        self.draw = draw
        self.interval = interval
        self.score_thr = score_thr
        self.test_out_dir = test_out_dir

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Optional[dict] = None,
                       outputs: Optional[Sequence] = None) -> None:
        if not self.draw:
            return
        first = batch_idx * len(outputs)
        for i, sample in enumerate(outputs):
            if (first + i) % self.interval == 0:
                runner.visualizer.add_datasample(Path(sample.img_path).stem, _read(sample.img_path), sample,
                                                 draw_gt=False, pred_score_thr=self.score_thr, step=runner.iter)

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: Optional[dict] = None,
                        outputs: Optional[Sequence] = None) -> None:
        if not self.draw:
            return
        for sample in outputs:
            stem = Path(sample.img_path).stem
            out_file = str(Path(self.test_out_dir) / f'{stem}.png') if self.test_out_dir else None
            runner.visualizer.add_datasample(stem, _read(sample.img_path), sample, draw_gt=False, out_file=out_file,
                                             pred_score_thr=self.score_thr, step=batch_idx)


def _read(path: str):
    return mmcv.imread(path, channel_order='rgb')
