"""The end of a training that does not get better."""

from typing import Any

from mmengine.hooks import EarlyStoppingHook as _EarlyStoppingHook
from mmengine.runner import Runner

from mmdet.io.resuming import blame
from mmdet.registry import HOOKS


@HOOKS.register_module()
class EarlyStoppingHook(_EarlyStoppingHook):
    """Ends a training whose validation has not been better for some time; mmengine's hook, which a resumed run goes on
    with.

    The best number, and for how many validations it was not reached, are in the checkpoints. Arguments are mmengine's.

    Example:
        In a config: end after 5 validations without a better AP, or without a lower loss of the validation::

            custom_hooks = [dict(type='EarlyStoppingHook', monitor='coco/bbox_mAP', patience=5, min_delta=0.001)]
            val_cfg = dict(type='ValLoop', with_loss=True)
            custom_hooks = [dict(type='EarlyStoppingHook', monitor='val_loss', rule='less', patience=5)]
    """

    # before CheckpointHook, which may save the best weights after the same validation
    priority = 'LOW'

    #: iteration after which the last validation was that counts
    _counted: int | None = None

    def before_run(self, runner: Runner) -> None:
        """Do nothing; mmengine's looks at the training loop, which a test would build for it, with its data."""

    def before_train(self, runner: Runner) -> None:
        """Take what a resumed run knew; end at once what had ended."""
        super().before_run(runner)
        state: Any = runner.message_hub.runtime_info.get('early_stopping') if runner._resume else None
        if not state:
            return
        with blame(runner._load_from or runner.work_dir):
            self.best_score, self.wait_count = float(state['best']), int(state['waited'])
            self._counted, stopped = int(state['iter']), bool(state['stopped'])
        if stopped:
            runner.train_loop.stop_training = True
            runner.logger.info(f'EarlyStoppingHook: the run had stopped, at {self.monitor} {self.best_score:.3f}')

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Compare the monitored number with the best one, and end the training, or not."""
        if runner.iter == self._counted:
            return  # made up for in a resumed run, and already in what was saved
        self._counted = runner.iter
        super().after_val_epoch(runner, metrics)
        stopped = runner.train_loop.stop_training
        state = dict(best=float(self.best_score), waited=self.wait_count, stopped=stopped, iter=runner.iter)
        runner.message_hub.update_info('early_stopping', state)
