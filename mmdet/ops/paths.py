"""Whether a faster way may be taken than one module after the other."""

from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

_HOOKS = ('_forward_hooks', '_forward_pre_hooks', '_backward_hooks', '_backward_pre_hooks')
_GLOBAL_HOOKS = tuple(
    getattr(torch_module, f'_global{name}') for name in _HOOKS if hasattr(torch_module, f'_global{name}')
)


def unobserved(x: Tensor, *modules: nn.Module) -> bool:
    """Whether ``x`` is on the CPU, no graph is being traced, and nobody has hooked into the modules or into all."""
    if x.device.type != 'cpu' or torch.jit.is_tracing() or torch.compiler.is_compiling():
        return False
    return not (any(_GLOBAL_HOOKS) or any(getattr(one, name) for one in modules for name in _HOOKS))


def plain_conv(conv: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether a module is ``nn.Conv2d`` itself, whose border is of zeros, so many as its ``padding`` says."""
    return type(conv) is nn.Conv2d and conv.padding_mode == 'zeros' and not isinstance(conv.padding, str)
