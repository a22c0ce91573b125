"""Learning rate, epochs and intervals of a config for one's own data."""

import math

from .config_file import ConfigFile

#: at least so many iterations, if that takes no more than so many epochs
ITERATIONS, EPOCHS = 1000, 50
MAX_EPOCHS = 'train_cfg.max_epochs'


def set_schedule(file: ConfigFile, images: int, processes: int, options: dict) -> list[tuple[str, str]]:
    """Learning rate, epochs and intervals that fit; returns rows for the report."""
    cfg = file.cfg
    batch = cfg.train_dataloader.batch_size * processes
    iterations = math.ceil(math.ceil(images / processes) / cfg.train_dataloader.batch_size)
    rows = []
    rate, why = _set_rate(file, batch, options)
    if rate:
        rows.append(('learning rate', f'{rate:g} for {batch} images a batch; {why}'))

    loop = cfg.train_cfg
    by_epoch = 'max_epochs' in loop
    length = loop.get('max_epochs') or loop.get('max_iters')
    epochs = options.get(MAX_EPOCHS)
    if epochs is None:
        epochs = max(loop.get('max_epochs') or 12, min(EPOCHS, math.ceil(ITERATIONS / iterations)))
    elif not isinstance(epochs, int) or epochs < 1:
        raise ValueError(f'{MAX_EPOCHS} must be a whole number of 1 or more, got {epochs!r}')
    interval = max(1, epochs // 10)
    loop_values = dict(max_epochs=epochs, val_interval=interval)
    about = f'{epochs} epochs of {iterations} iterations'
    if by_epoch:
        file.set({f'train_cfg.{key}': value for key, value in loop_values.items()}, about)
    else:
        file.set(dict(train_cfg=dict(loop_values, type='EpochBasedTrainLoop', _delete_=True)), about)
        if cfg.train_dataloader.sampler.type == 'InfiniteSampler':
            file.set({'train_dataloader.sampler': dict(type='DefaultSampler', shuffle=True, _delete_=True)})
    rows.append(('epochs', f'{epochs} of {iterations} iterations'))
    schedulers = cfg.get('param_scheduler')
    schedulers = [schedulers] if isinstance(schedulers, dict) and 'type' in schedulers else schedulers
    if schedulers and isinstance(schedulers, (list, tuple)):
        fitted, warm_up = _fit_schedulers(list(schedulers), by_epoch, length, epochs, iterations)
        file.set(dict(param_scheduler=fitted), f'Warm-up: {warm_up} of {epochs * iterations} iterations')
    saving: dict = dict(interval=interval, max_keep_ckpts=2, save_best='auto' if cfg.get('val_cfg') else None)
    if not by_epoch:
        saving['by_epoch'] = True
    hooks = dict(logger=dict(interval=min(50, max(1, iterations // 2))), checkpoint=saving)
    for name, values in hooks.items():
        if 'type' in ((cfg.get('default_hooks') or {}).get(name) or {}):
            comment = 'The last two checkpoints are kept, and the best'
            file.set({f'default_hooks.{name}.{key}': value for key, value in values.items()}, comment)
    if not by_epoch and cfg.get('log_processor'):
        file.set({'log_processor.by_epoch': True})
    return rows


def _set_rate(file: ConfigFile, batch: int, options: dict) -> tuple[float, str]:
    """Scale the learning rate, and have it follow the batch from here on; returns it, 0 if there is none, and why."""
    optimizer = file.cfg.optim_wrapper.get('optimizer') or {}
    meant_for = (file.cfg.get('auto_scale_lr') or {}).get('base_batch_size')
    rate = optimizer.get('lr') or 0
    if not isinstance(rate, (int, float)) or not rate or not meant_for:
        return rate, 'the config does not say for how many it is meant (auto_scale_lr.base_batch_size)'
    said = 'as given'
    if 'optim_wrapper.optimizer.lr' not in options:
        said = f'the config has {rate:g} for {meant_for}'
        rate = float(f'{rate * batch * file.cfg.optim_wrapper.get("accumulative_counts", 1) / meant_for:.4g}')
        file.set({'optim_wrapper.optimizer.lr': rate}, f'For {batch} images a batch; {said}')
    file.set(
        {'auto_scale_lr.base_batch_size': batch, 'auto_scale_lr.enable': True},
        'If the batch or the number of processes changes, the rate does, too',
    )
    return rate, said


def _fit_schedulers(schedulers: list, by_epoch: bool, length: int, epochs: int, iterations: int) -> tuple[list, int]:
    """Schedulers of a run of ``length`` epochs or iterations, for ``epochs`` of ``iterations`` each, and the length of
    the warm-up in iterations."""
    fitted, warm_up = [], 0
    for scheduler in schedulers:
        one = dict(scheduler)
        in_epochs = one.get('by_epoch', True)
        rises = one['type'] == 'LinearLR' and one.get('start_factor', 1 / 3) < one.get('end_factor', 1)
        if (rises or one['type'] == 'ConstantLR') and not one.get('begin'):
            end = one.get('end', 0) * (iterations if in_epochs else 1)
            warm_up = int(min(end, epochs * iterations // 10))
            one.pop('convert_to_iter_based', None)
            if warm_up > 1:
                fitted.append(dict(one, by_epoch=False, begin=0, end=warm_up))
            continue
        whole = length if in_epochs == by_epoch else one.get('end')
        for key in ('begin', 'end', 'T_max') if whole else ():
            if key in one:
                one[key] = min(epochs, round(one[key] * epochs / whole))
        if whole and 'milestones' in one:
            milestones = {round(milestone * epochs / whole) for milestone in one['milestones']}
            one['milestones'] = sorted(milestone for milestone in milestones if 0 < milestone < epochs)
        fitted.append(dict(one, by_epoch=True))
    return fitted, warm_up if warm_up > 1 else 0
