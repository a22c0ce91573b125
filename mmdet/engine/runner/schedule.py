"""Settings of a training that do not fit its batch, its length or its model."""

from collections.abc import Iterator

from mmengine.optim import OptimWrapperDict
from mmengine.optim.scheduler.param_scheduler import (
    ConstantParamScheduler,
    CosineAnnealingParamScheduler,
    LinearParamScheduler,
    PolyParamScheduler,
    _ParamScheduler,
)
from mmengine.runner import IterBasedTrainLoop, Runner
from torch.nn.modules.batchnorm import _BatchNorm

from mmdet.models.backbones.resnet import ResNet
from mmdet.run.ranks import bare
from mmdet.words import nearest


def misfits(runner: Runner) -> Iterator[str]:
    """A sentence for each setting of a run, about to begin, that fits it badly, with the value to set.

    These are a learning rate that is meant for another batch (``auto_scale_lr.base_batch_size``) and is not scaled, a
    warm-up that is longer than half of the run, a cosine that ends elsewhere than the run, a validation that never
    begins, settings of parameters that there are not, and layers that stay at random.
    """
    yield from _of_parameters(runner)
    loop = runner.train_loop
    by_iteration = isinstance(loop, IterBasedTrainLoop)
    unit, most = ('iterations', loop.max_iters) if by_iteration else ('epochs', loop.max_epochs)
    if runner._val_loop is not None and loop.val_begin > most:
        yield f'train_cfg.val_begin={loop.val_begin}: the run has {most} {unit} and is never validated'
    yield from _of_batch(runner)
    schedulers, settings = runner.param_schedulers, runner.cfg.get('param_scheduler')
    settings = [settings] if isinstance(settings, dict) else settings
    if not isinstance(schedulers, list) or not isinstance(settings, list) or len(schedulers) != len(settings):
        return
    length, total = len(runner.train_dataloader), runner.max_iters
    for i, (scheduler, setting) in enumerate(zip(schedulers, settings)):
        if not isinstance(setting, dict):
            continue
        steps = total // length if scheduler.by_epoch else total
        yield from _of_descent(i, scheduler, steps, length if setting.get('convert_to_iter_based') else 1)
        if not _warms_up(scheduler):
            continue
        iterations = scheduler.end * (length if scheduler.by_epoch else 1)
        if 2 * iterations > total:
            tenth = max(2, total // 10)
            if setting.get('by_epoch', True):
                tenth = f'{tenth / length:.2g}' if setting.get('convert_to_iter_based') else max(1, tenth // length)
            yield f'the warm-up takes {iterations} of {total} iterations: set param_scheduler.{i}.end={tenth}'


def _of_descent(i: int, scheduler: _ParamScheduler, total: int, unit_length: int) -> Iterator[str]:
    """A learning rate that falls to another moment than the end of a run of ``total`` steps, of which the config's unit
    has ``unit_length``."""
    if isinstance(scheduler, CosineAnnealingParamScheduler):
        key, steps = 'T_max', scheduler.T_max
    elif isinstance(scheduler, PolyParamScheduler):
        key, steps = 'end', scheduler.end - scheduler.begin
    else:
        return
    span = min(scheduler.end, total) - scheduler.begin
    if span < 1 or abs(steps - span) <= 0.05 * span or key == 'end' and steps < span:
        return
    unit = 'epochs' if scheduler.by_epoch else 'iterations'
    wanted = (span if key == 'T_max' else total) / unit_length
    what = 'rises again' if steps < span else 'has not come down'
    yield (
        f'param_scheduler.{i}.{key}: the learning rate falls for {steps} {unit} of {span}, and {what} at the end: '
        f'set param_scheduler.{i}.{key}={wanted:g}'
    )


def _of_batch(runner: Runner) -> Iterator[str]:
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


def _of_parameters(runner: Runner) -> Iterator[str]:
    """Rates of parts that the model has not, and layers without gradient that nothing has been loaded into."""
    model = bare(runner.model)
    wrapper = runner.cfg.get('optim_wrapper')
    custom = ((wrapper or {}).get('paramwise_cfg') or {}).get('custom_keys') or {} if isinstance(wrapper, dict) else {}
    names = [name for name, _ in model.named_parameters()]
    for key in custom:
        if not any(key in name for name in names):
            parts = {part for name in names for part in (name.split('.')[0], *name.split('.'))}
            yield (
                f'optim_wrapper.paramwise_cfg.custom_keys.{key}: no parameter has this in its name, and nothing is '
                f'changed by it{nearest(key, parts)}'
            )
    backbone = getattr(model, 'backbone', None)
    if not isinstance(backbone, ResNet) or backbone.pretrained or model.init_cfg:
        return
    if runner._load_from or runner._resume:
        return
    frozen = backbone.frozen_stages
    if frozen >= 0:
        yield (
            f'model.backbone.frozen_stages={frozen}: these layers are never trained, and stay at random without '
            "weights to start from; set load_from, or init_cfg=dict(type='Pretrained', checkpoint=...) of the "
            'backbone, or frozen_stages=-1'
        )
    elif backbone.norm_eval and any(isinstance(part, _BatchNorm) for part in backbone.modules()):
        yield (
            'model.backbone.norm_eval=True: its norms never learn statistics, and without weights to start from those '
            'are of no image; set load_from, or init_cfg of the backbone, or norm_eval=False'
        )


def _warms_up(scheduler: _ParamScheduler) -> bool:
    if isinstance(scheduler, LinearParamScheduler):
        return scheduler.begin == 0 and scheduler.start_factor < scheduler.end_factor
    return isinstance(scheduler, ConstantParamScheduler) and scheduler.begin == 0 and scheduler.factor < 1
