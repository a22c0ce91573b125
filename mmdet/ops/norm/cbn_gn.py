"""Cross-iteration and group normalization, mixed channel by channel as the training finds best."""
from typing import Optional

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .cbn import CBNPlus
from .kernels import per_channel


class CBNGN(nn.GroupNorm):
    r"""A learned mixture of CBN+ and GN after a convolution or linear layer. ``type='CBN+GN'``.

    With CBN+'s pooled statistics and those of GN, of each image and group of channels,

    .. math:: z = \gamma \left(s\, \hat y_{CBN} + (1 - s)\, \hat y_{GN}\right) + \beta, \quad s = \sigma(a)

    where a, one number a channel, is learned and starts at 0, so that s starts at 1/2. CBN's part keeps what tells one
    image from another, GN's takes it out. Mixing a batch norm with another, by learned weights, is from Switchable
    Normalization (Luo et al., ICLR 2019, arXiv 1806.10779), which mixes statistics; here it is outputs, so that each
    part stays exact.

    Parameters have GN's names, and ``mix`` is a; the running statistics are those of ``cbn``, a layer of its own, which
    takes those of a BN's checkpoint too.

    Args:
        num_groups, num_channels, eps, affine: as in GN; ``eps`` for both parts.
        kwargs: further arguments of :class:`.CBNPlus`.

    Shape:
        input (N, C, ...) with any number of spatial dimensions; output the same.

    Raises:
        ValueError: channels that do not divide into the groups; ``buffer_num=0``; what CBN+ refuses.
    """

    _abbr_ = 'cbn_gn'
    kwargs_of = CBNPlus

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True, **kwargs) -> None:
        if isinstance(num_groups, bool) or not isinstance(num_groups, int) or num_groups < 1 \
                or num_channels % num_groups:
            raise ValueError(f'CBN+GN: num_groups must be an integer that divides the {num_channels} channels, got '
                             f'{num_groups!r}')
        if kwargs.get('buffer_num') == 0:
            raise ValueError('CBN+GN: buffer_num must be 1 or more, got 0')
        super().__init__(num_groups, num_channels, eps, affine)
        self.cbn = CBNPlus(num_channels, eps=eps, affine=False, **kwargs)
        self.mix = nn.Parameter(torch.zeros(num_channels))

    def forward(self, y: Tensor, x: Optional[Tensor] = None, conv: Optional[nn.Module] = None) -> Tensor:
        """Normalize ``y = conv(x)``; see :meth:`.CBN.forward`."""
        share = self.mix.sigmoid()
        if self.weight is not None:
            share = self.weight * share
        rest = (1 if self.weight is None else self.weight) - share
        z = self.cbn(y, x, conv, (share, self.bias))
        if y.numel() == 0:
            return z + per_channel(rest, y).to(y.dtype) * y
        return F.group_norm(y, self.num_groups, rest, None, self.eps).to(y.dtype).add_(z)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        for name in self.cbn._buffers:
            if prefix + name in state_dict:
                state_dict.setdefault(f'{prefix}cbn.{name}', state_dict.pop(prefix + name))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
