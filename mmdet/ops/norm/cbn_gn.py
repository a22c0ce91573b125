"""Cross-iteration and group normalization in one layer, averaged."""

from torch import Tensor, nn
from torch.nn import functional as F

from .cbn import CBNPlus
from .kernels import per_channel, stats_dtype


class CBNGN(nn.GroupNorm):
    r"""The average of CBN+ and GN after a convolution or linear layer. ``type='CBN+GN'``.

    With CBN+'s pooled statistics and those of GN, of each image and group of channels,

    .. math:: z = \gamma \left(s\, \hat y_{CBN} + (1 - s)\, \hat y_{GN}\right) + \beta

    CBN's part keeps what tells one image from another, GN's takes it out. Mixing a batch norm with another norm is from
    Switchable Normalization (Luo et al., ICLR 2019, arXiv 1806.10779), which mixes statistics by learned weights; here
    it is outputs, so that each part stays exact, by a constant s: learned in each channel it hardly moves
    (``docs/results.md``).

    Parameters have GN's names; the running statistics are those of ``cbn``, a layer of its own, which takes those of a
    BN's checkpoint too.

    Args:
        num_groups, num_channels, eps, affine: as in GN; ``eps`` for both parts.
        share: s, CBN+'s part, more than 0 and less than 1.
        kwargs: further arguments of :class:`.CBNPlus`.

    Shape:
        input (N, C, ...) with any number of spatial dimensions; output the same.

    Raises:
        ValueError: channels that do not divide into the groups; ``share`` out of its range; ``buffer_num=0``; what CBN+
            refuses.
    """

    _abbr_ = 'cbn_gn'
    kwargs_of = CBNPlus

    def __init__(
        self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True, share: float = 0.5, **kwargs
    ) -> None:
        if (
            isinstance(num_groups, bool)
            or not isinstance(num_groups, int)
            or num_groups < 1
            or num_channels % num_groups
        ):
            raise ValueError(
                f'CBN+GN: num_groups must be an integer that divides the {num_channels} channels, got {num_groups!r}'
            )
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share < 1:
            raise ValueError(
                'CBN+GN: share must be a number between 0, which would be GN, and 1, which would be CBN+, '
                f'got {share!r}'
            )
        if kwargs.get('buffer_num') == 0:
            raise ValueError('CBN+GN: buffer_num must be 1 or more, got 0')
        super().__init__(num_groups, num_channels, eps, affine)
        self.share = share
        self.cbn = CBNPlus(num_channels, eps=eps, affine=False, **kwargs)

    def forward(self, y: Tensor, x: Tensor | None = None, conv: nn.Module | None = None) -> Tensor:
        """Normalize ``y = conv(x)``; see :meth:`.CBN.forward`."""
        own = y.new_ones(self.num_channels, dtype=stats_dtype(y.dtype)) if self.weight is None else self.weight
        z = self.cbn(y, x, conv, (own * self.share, self.bias))
        rest = own * (1 - self.share)
        if y.numel() == 0:
            return z + per_channel(rest, y).to(y.dtype) * y
        return F.group_norm(y, self.num_groups, rest, None, self.eps).to(y.dtype).add_(z)

    def extra_repr(self) -> str:
        return f'{super().extra_repr()}, share={self.share}'

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        for name in self.cbn._buffers:
            if prefix + name in state_dict:
                state_dict.setdefault(f'{prefix}cbn.{name}', state_dict.pop(prefix + name))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
