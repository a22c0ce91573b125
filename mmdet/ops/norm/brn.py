"""Batch Renormalization (Ioffe, NeurIPS 2017, arXiv 1702.03275): BN whose training output is that of evaluation."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from .kernels import batch_stats


class BRN(_BatchNorm):
    r"""Batch Renormalization; in evaluation BN, with BN's parameters and buffers. ``type='BRN'``.

    With the batch's mean mu_B and deviation sigma_B, the root of its variance and eps, and the running mu and sigma
    (Algorithm 1), r and d being constants to the gradient,

    .. math:: z = \gamma \left(\frac{y - \mu_B}{\sigma_B} r + d\right) + \beta, \quad
        r = \mathrm{clip}_{[1/r_{max},\, r_{max}]}\left(\frac{\sigma_B}{\sigma}\right), \quad
        d = \mathrm{clip}_{[-d_{max},\, d_{max}]}\left(\frac{\mu_B - \mu}{\sigma}\right)

    and then mu and sigma move towards mu_B and sigma_B by the momentum; ``running_var`` is the square of sigma, less
    eps. Iterations are counted by ``num_batches_tracked``.

    Args:
        num_features: number C of channels.
        r_max, d_max: the clipping in the end; 1 and 0 are BN.
        burnin: plain BN for so many iterations.
        r_ramp, d_ramp: so many iterations after the burn-in the clipping grows from BN's to ``r_max`` and ``d_max``.
            The defaults are the paper's (section 4), which are for 130,000 iterations.
        eps, momentum, affine: as in BN.

    Shape:
        input (N, C, ...), output the same.

    Raises:
        ValueError: an argument out of its range, naming it; an input of another number of channels.
    """

    _abbr_ = 'bn'
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def __init__(
        self,
        num_features: int,
        r_max: float = 3.0,
        d_max: float = 5.0,
        burnin: int = 5000,
        r_ramp: int = 35000,
        d_ramp: int = 20000,
        eps: float = 1e-5,
        momentum: float = 0.01,
        affine: bool = True,
    ) -> None:
        for name, value, least in (
            ('r_max', r_max, 1),
            ('d_max', d_max, 0),
            ('burnin', burnin, 0),
            ('r_ramp', r_ramp, 0),
            ('d_ramp', d_ramp, 0),
        ):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= least:
                raise ValueError(f'BRN: {name} must be {least} or more, got {value!r}')
        super().__init__(num_features, eps, momentum, affine)
        self.r_max, self.d_max, self.burnin, self.r_ramp, self.d_ramp = r_max, d_max, burnin, r_ramp, d_ramp

    def limits(self, step: Tensor) -> tuple[Tensor, Tensor]:
        """r_max and d_max of iteration ``step``, from 0, a tensor of any shape."""
        since = step - self.burnin
        r, d = ((since / ramp).clamp(0, 1) if ramp else (since >= 0).float() for ramp in (self.r_ramp, self.d_ramp))
        return 1 + r * (self.r_max - 1), d * self.d_max

    def forward(self, y: Tensor) -> Tensor:
        """Normalize ``y``."""
        self._check_input_dim(y)
        if not self.training:
            return F.batch_norm(y, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        if y.numel() == 0:
            return y * 1 if self.weight is None else y * self.weight.sum() + self.bias.sum()
        with torch.no_grad():
            r, d = self._correct(*batch_stats(y))
        weight = r if self.weight is None else self.weight * r
        bias = d if self.weight is None else self.weight * d + self.bias
        return F.batch_norm(y, None, None, weight.to(y.dtype), bias.to(y.dtype), True, 0.0, self.eps)

    def _correct(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        r_max, d_max = self.limits(self.num_batches_tracked)
        running_std, std = (self.running_var + self.eps).sqrt(), (var + self.eps).sqrt()
        r = (std / running_std).clamp(1 / r_max, r_max)
        d = ((mean - self.running_mean) / running_std).clamp(-d_max, d_max)
        if torch._C._current_graph_task_id() == -1:  # not the second forward of activation checkpointing
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.copy_(torch.lerp(running_std, std, self.momentum).square() - self.eps)
        return r, d

    def _check_input_dim(self, y: Tensor) -> None:
        if y.dim() < 2 or y.shape[1] != self.num_features:
            raise ValueError(f'BRN: expected (N, {self.num_features}, ...), got {tuple(y.shape)}')
