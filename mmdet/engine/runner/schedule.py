"""Settings of a training that do not fit its batch or its length."""

from collections.abc import Iterator

from mmengine.optim import OptimWrapperDict
from mmengine.optim.scheduler.param_scheduler import ConstantParamScheduler, LinearParamScheduler, _ParamScheduler
from mmengine.runner import Runner


def misfits(runner: Runner) -> Iterator[str]:
    """A sentence for each setting of a run, about to begin, that fits it badly, with the value to set.

    These are a learning rate that is meant for another batch (``auto_scale_lr.base_batch_size``) and is not scaled, and
    a warm-up that is longer than half of the run.
    """
    auto = runner.auto_scale_lr or {}
    loader, wrapper = runner.train_dataloader, runner.optim_wrapper
    size = getattr(loader.batch_sampler, 'batch_size', None) or loader.batch_size
    meant_for = auto.get('base_batch_size')
    if size and meant_for and not auto.get('enable') and not isinstance(wrapper, OptimWrapperDict):
        steps = getattr(wrapper, '_accumulative_counts', 1)
        batch = size * runner.world_size * steps
        rate = ((runner.cfg.get('optim_wrapper') or {}).get('optimizer') or {}).get('lr')
        if batch != meant_for and isinstance(rate, (int, float)):
            yield (
                f'learning rate {rate:g} is meant for {meant_for} images a batch, here are {batch}: set '
                f'optim_wrapper.optimizer.lr={rate * batch / meant_for:.4g}'
                + (' or add --auto-scale-lr' if steps == 1 else '')
                + f'; if it is as wanted, auto_scale_lr.base_batch_size={batch}'
            )
    schedulers, settings = runner.param_schedulers, runner.cfg.get('param_scheduler')
    settings = [settings] if isinstance(settings, dict) else settings
    if not isinstance(schedulers, list) or not isinstance(settings, list) or len(schedulers) != len(settings):
        return
    length, total = len(loader), runner.max_iters
    for i, (scheduler, setting) in enumerate(zip(schedulers, settings)):
        if not isinstance(setting, dict) or not _warms_up(scheduler):
            continue
        iterations = scheduler.end * (length if scheduler.by_epoch else 1)
        if 2 * iterations > total:
            tenth = max(2, total // 10)
            if setting.get('by_epoch', True):
                tenth = f'{tenth / length:.2g}' if setting.get('convert_to_iter_based') else max(1, tenth // length)
            yield f'the warm-up takes {iterations} of {total} iterations: set param_scheduler.{i}.end={tenth}'


def _warms_up(scheduler: _ParamScheduler) -> bool:
    if isinstance(scheduler, LinearParamScheduler):
        return scheduler.begin == 0 and scheduler.start_factor < scheduler.end_factor
    return isinstance(scheduler, ConstantParamScheduler) and scheduler.begin == 0 and scheduler.factor < 1
