"""Mixed precision, on a GPU and on the CPU."""

import logging

import torch
from mmengine.logging import print_log
from mmengine.optim import AmpOptimWrapper as _AmpOptimWrapper
from mmengine.optim import OptimWrapper

from mmdet.registry import OPTIM_WRAPPERS


def amp_dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    """Return what autocast casts to; None: float16 on a GPU, bfloat16 on the CPU.

    Args:
        dtype: 'float16', 'bfloat16', one of torch's, or None.

    Raises:
        ValueError: neither float16 nor bfloat16; float16 without CUDA.
    """
    cuda = torch.cuda.is_available()
    if dtype is None:
        return torch.float16 if cuda else torch.bfloat16
    name = str(dtype).removeprefix('torch.')
    if name not in ('float16', 'bfloat16'):
        raise ValueError(f"optim_wrapper.dtype must be 'float16' or 'bfloat16', got {name!r}")
    if name == 'float16' and not cuda:
        raise ValueError(
            'mixed precision in float16 (--amp fp16) needs a loss scale, and that needs CUDA, which is '
            "not here; on a CPU take bfloat16: --amp bf16, or optim_wrapper.dtype='bfloat16'"
        )
    return getattr(torch, name)


def emulates_bfloat16() -> bool:
    """Whether the CPU has no instructions that bfloat16 could use: convolutions then take many times float32's time."""
    return not torch.ops.mkldnn._is_mkldnn_bf16_supported()


@OPTIM_WRAPPERS.register_module()
class AmpOptimWrapper(_AmpOptimWrapper):
    """Trains in mixed precision: float16 as in mmengine, bfloat16 also on the CPU.

    bfloat16 goes without a loss scale, as it has float32's range.

    Args:
        loss_scale: of float16, as in mmengine.
        dtype: ``'float16'`` or ``'bfloat16'``, see :func:`amp_dtype`.
        kwargs: as of mmengine's OptimWrapper: ``optimizer``, ``clip_grad``, ``accumulative_counts``, ...

    Example:
        In a config::

            optim_wrapper = dict(
                type='AmpOptimWrapper', dtype='bfloat16', optimizer=dict(type='SGD', lr=0.02, momentum=0.9)
            )
    """

    def __init__(self, loss_scale: str | float | dict = 'dynamic', dtype: str | None = None, **kwargs) -> None:
        self.cast_dtype = amp_dtype(dtype)
        if self.cast_dtype == torch.float16:
            super().__init__(loss_scale, self.cast_dtype, **kwargs)
        else:
            if not torch.cuda.is_available() and emulates_bfloat16():
                print_log(
                    'bfloat16 is not for this CPU, which has no instructions for it: a step takes many times as long '
                    'as in float32; leave --amp or AmpOptimWrapper out',
                    'current',
                    logging.WARNING,
                )
            OptimWrapper.__init__(self, **kwargs)  # past mmengine's own, which asserts that there is a GPU
            self.loss_scaler, self._scale_update_param = torch.amp.GradScaler(enabled=False), None

    def load_state_dict(self, state_dict: dict) -> None:
        """Load the state as in mmengine; a scale that a bfloat16 run has not saved begins anew."""
        if not state_dict.get('loss_scaler'):
            state_dict.pop('loss_scaler', None)
        super().load_state_dict(state_dict)
