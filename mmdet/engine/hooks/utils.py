"""What users' copies of mmdetection's tools/test.py ask of the hooks."""

import argparse

from mmengine.config import Config


def trigger_visualization_hook(cfg: Config, args: argparse.Namespace) -> Config:
    """Make the config's visualization hook draw: with ``args.show`` in windows, with ``args.show_dir`` into files.

    Args:
        cfg: changed in place.
        args: with ``show``, ``show_dir`` and ``wait_time`` in seconds.

    Returns:
        ``cfg``.

    Raises:
        KeyError: the config has no such hook.
    """
    hook = (cfg.get('default_hooks') or {}).get('visualization')
    if hook is None:
        raise KeyError(
            f"config {cfg.filename}: default_hooks has no 'visualization'; add "
            "visualization=dict(type='DetVisualizationHook')"
        )
    hook.draw = True
    if args.show:
        hook.show, hook.wait_time = True, args.wait_time
    if args.show_dir:
        hook.test_out_dir = args.show_dir
    return cfg
