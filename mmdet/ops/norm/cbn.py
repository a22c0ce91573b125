"""Cross-Iteration Batch Normalization (Yao et al., CVPR 2021, arXiv 2002.05712).

A convolution's output is normalized with statistics pooled over this batch and the ``buffer_num`` batches before it.
The weights have moved since: the earlier statistics are carried to today's weights by a first-order Taylor expansion.
The expansion is written here in closed form (docs of :class:`CBN`), so that no autograd call is needed.
"""
from collections import deque
from typing import NamedTuple, Optional

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from .conv_stats import check_conv, mean_patch, row_dot, weight_grad, weight_matrix


class WindowEntry(NamedTuple):
    """One earlier batch: its statistics and what they need to follow the weights. G groups, D numbers a filter."""
    patch: Tensor  # (G, D): mean input patch m, so that the mean is <w_c, m>
    slope: Tensor  # (C_out, D): a_c = g_c / <g_c, w0_c>, g_c = half the variance's gradient
    mean: Tensor  # (C_out,): without the convolution's bias
    var: Tensor  # (C_out,): biased
    finite: Tensor  # (): 1, or 0 for a batch that overflowed and is left out of the pool


def batch_stats(y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel of ``y`` (N, C, ...), float32 or wider, each (C,)."""
    if y.dtype in (torch.float16, torch.bfloat16):
        y = y.float()
    dims = [d for d in range(y.dim()) if d != 1]
    var, mean = torch.var_mean(y, dims, correction=0)
    return mean, var


def carry(entry: WindowEntry, weight: Tensor, rho: float) -> tuple[Tensor, Tensor]:
    """An earlier batch's mean (without bias) and variance under today's weights, each (C_out,).

    The paper expands ``mu`` and ``nu = E[y^2]`` and pools ``max(nu, mu^2)``. ``mu`` is linear and the variance
    quadratic in ``w``, so with Euler's identity the old weights cancel:
    ``nu(w) - mu(w)^2 = var0 (1 + 2 rho (<a, w> - 1)) - (rho (mu(w) - mu0))^2``.

    Args:
        weight: today's weights, (C_out, D).
        rho: scale of the compensation; 1 is the full Taylor term, 0 none.
    """
    shift = rho * (row_dot(entry.patch, weight) - entry.mean)
    growth = 2 * rho * (row_dot(entry.slope, weight) - 1)
    # A channel that was constant has no slope: its Taylor term is 0, and so is the product below.
    var = entry.var * (1 + growth) - shift.square()
    return entry.mean + shift, var.clamp(min=0)


def pool(means: Tensor, variances: Tensor, counted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Total mean and variance over batches: within plus between, so that nothing cancels in float32.

    Args:
        means, variances: (n, C).
        counted: (n,), 1 or 0 for each batch.

    Returns:
        mean (C,), variance (C,), number of counted batches ().
    """
    number = counted.sum()
    share = (counted / number).unsqueeze(1)
    mean = (share * means).sum(0)
    return mean, (share * (variances + (means - mean).square())).sum(0), number


class _PooledNorm(torch.autograd.Function):
    """Normalizes with pooled statistics; its backward is BN's with the count of all pooled batches.

    The window advances in the backward. Activation checkpointing runs the forward twice, evaluation and
    ``no_grad`` run it without a backward; the backward of a training step runs once.
    """

    @staticmethod
    def forward(ctx, y, gamma, beta, x, weight, layer, conv, stats, pooled):
        mean, var, number = pooled
        ctx.layer, ctx.conv, ctx.recorded, ctx.pools = layer, conv, False, layer.pools
        invstd = torch.rsqrt(var + layer.eps)
        ctx.save_for_backward(y, gamma, x, weight, *stats, mean, invstd, number)
        return F.batch_norm(y, mean, var, gamma, beta, False, 0., layer.eps)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        y, gamma, x, weight, batch_mean, batch_var, mean, invstd, number = ctx.saved_tensors
        layer, needs = ctx.layer, ctx.needs_input_grad
        affine = gamma is not None
        grad_y, grad_gamma, grad_beta = torch.ops.aten.native_batch_norm_backward(
            grad.contiguous(), y, gamma, None, None, mean, invstd, True, layer.eps,
            (needs[0], affine and needs[1], affine and needs[2]))
        if needs[0] and ctx.pools:
            # The kernel divides by this batch's count; the pool holds `number` times as many values.
            scale = invstd * gamma if affine else invstd
            shape = (1, -1) + (1, ) * (y.dim() - 2)
            own = (1 / number).to(grad_y.dtype)
            grad_y = grad_y * own + grad * (scale * (1 - 1 / number)).view(shape).to(grad_y.dtype)
        if not ctx.recorded:
            ctx.recorded = True
            layer._advance(y, x, weight, ctx.conv, batch_mean, batch_var)
        return grad_y, grad_gamma, grad_beta, None, None, None, None, None, None


class CBN(_BatchNorm):
    r"""Cross-Iteration Batch Normalization after a convolution or linear layer.

    With this batch and n - 1 earlier ones, each carried to today's weights (:func:`carry`),

    .. math:: \bar\mu = \frac1n \sum_i \mu_i, \quad
        \bar\sigma^2 = \frac1n \sum_i \sigma_i^2 + \frac1n \sum_i (\mu_i - \bar\mu)^2, \quad
        z = \gamma (y - \bar\mu) / \sqrt{\bar\sigma^2 + \epsilon} + \beta

    The gradient flows through the current batch only. Running statistics follow the current batch's own mean and
    variance, and in evaluation the layer is BN. Parameters and buffers have BN's names and shapes. The window is
    no part of the ``state_dict``: see :meth:`window_state`. Statistics and window are float32 whatever the
    activations are.

    Args:
        num_features: number C of channels.
        buffer_num: number of earlier batches in the window; 0 is BN.
        burnin: nothing is pooled (plain BN) for so many training iterations, or epochs with ``by_epoch``.
        by_epoch: count ``burnin`` in epochs. ``CBNHook`` sets :attr:`epoch_length`; without it the first
            training forward raises RuntimeError.
        two_stage: False: the window grows linearly from 0 to ``buffer_num`` over the burn-in.
        rho: scale of the compensation, 0 to 1.
        eps, momentum, affine, track_running_stats: as in BN.

    Shape:
        input (N, C, *) with any number of spatial dimensions; output the same.
    """

    _abbr_ = 'bn'

    def __init__(self, num_features: int, buffer_num: int = 0, burnin: int = 0, by_epoch: bool = False,
                 two_stage: bool = True, rho: float = 1.0, eps: float = 1e-5, momentum: Optional[float] = 0.1,
                 affine: bool = True, track_running_stats: bool = True) -> None:
        for name, value in (('buffer_num', buffer_num), ('burnin', burnin)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ValueError(f'CBN: {name} must be an integer of 0 or more, got {value!r}')
        if not 0 <= rho <= 1:
            raise ValueError(f'CBN: rho must be between 0 (no compensation) and 1 (the Taylor term), got {rho!r}')
        super().__init__(num_features, eps, momentum, affine, track_running_stats)
        self.buffer_num = buffer_num
        self.burnin = burnin
        self.by_epoch = by_epoch
        self.two_stage = two_stage
        self.rho = rho
        self.epoch_length: Optional[int] = None
        self.layer_name = ''
        self.step = 0
        self.window: deque[WindowEntry] = deque(maxlen=buffer_num)

    # -- window -------------------------------------------------------------------------------------------------

    @property
    def burnin_steps(self) -> int:
        """Length of the burn-in in training iterations."""
        if not (self.by_epoch and self.burnin):
            return self.burnin
        if self.epoch_length is None:
            raise RuntimeError(
                f"CBN{self._where()}: burnin={self.burnin} counts epochs (by_epoch=True), but the length of an epoch "
                "is not known. Add default_hooks=dict(cbn=dict(type='CBNHook')) to the config, or set the layer's "
                'epoch_length, or use by_epoch=False.')
        return self.burnin * self.epoch_length

    def window_length(self, step: int) -> int:
        """Number of earlier batches that iteration ``step`` (from 0) pools, were they all there."""
        burnin = self.burnin_steps
        if step >= burnin:
            return self.buffer_num
        return 0 if self.two_stage else self.buffer_num * step // burnin

    @property
    def pools(self) -> bool:
        """Whether this iteration's statistics include earlier batches."""
        return bool(self.window) and self.window_length(self.step) > 0

    def drop_window(self) -> None:
        """Forget the earlier batches; the burn-in goes on where it was."""
        self.window.clear()

    def window_state(self) -> dict:
        """The window and the iteration count, for a checkpoint."""
        return dict(step=self.step, window=[entry._asdict() for entry in self.window])

    def load_window_state(self, state: dict) -> None:
        """Restore what :meth:`window_state` returned; ValueError if it is another layer's."""
        device = self._device()
        entries = [WindowEntry(**{k: v.to(device) for k, v in entry.items()}) for entry in state['window']]
        for entry in entries:
            if entry.mean.shape != (self.num_features, ):
                raise ValueError(f'CBN{self._where()}: the window in the checkpoint has {len(entry.mean)} channels, '
                                 f'this layer has {self.num_features}')
        self.step = int(state['step'])
        self.window = deque(entries, maxlen=self.buffer_num)

    def _advance(self, y, x, weight, conv, mean, var) -> None:
        """Take this batch into the window and count the iteration; called in the backward."""
        # In burn-in only the last batches will ever be pooled.
        wanted = self.window_length(self.step + self.buffer_num) > 0
        self.step += 1
        if not wanted:
            return
        x, weight = x.to(mean.dtype), weight_matrix(conv, weight).to(mean.dtype)
        shape = (1, -1) + (1, ) * (y.dim() - 2)
        patch = mean_patch(conv, x, y.shape)
        half_slope = weight_grad(conv, x, (y - mean.view(shape)) / (y.numel() // y.shape[1]))
        own = row_dot(half_slope, weight).unsqueeze(1)
        slope = torch.where(own > 0, half_slope / own, 0)
        entry = WindowEntry(patch, slope, row_dot(patch, weight), var, var.new_ones(()))
        finite = torch.stack([torch.isfinite(t).all() for t in entry]).all()
        # No host synchronization: an overflowed batch stays as zeros that the pool does not count.
        entry = WindowEntry(*(torch.where(finite, t, 0) for t in entry))
        self.window.append(entry)

    def _pooled(self, mean: Tensor, var: Tensor, weight: Tensor, conv_bias: Optional[Tensor]):
        entries = list(self.window)[-self.window_length(self.step):]
        weight = weight.to(mean.dtype)
        carried = [carry(entry, weight, self.rho) for entry in entries]
        bias = 0 if conv_bias is None else conv_bias.to(mean.dtype)
        means = torch.stack([mean] + [m + bias for m, _ in carried])
        variances = torch.stack([var] + [v for _, v in carried])
        counted = torch.stack([mean.new_ones(())] + [entry.finite for entry in entries])
        return pool(means, variances, counted)

    # -- forward ------------------------------------------------------------------------------------------------

    def forward(self, y: Tensor, x: Optional[Tensor] = None, conv: Optional[nn.Module] = None) -> Tensor:
        """Normalize ``y = conv(x)``; in training ``x`` and ``conv`` are needed unless ``buffer_num`` is 0.

        Raises:
            RuntimeError: no convolution was given in training, or the burn-in's length is not known.
            ValueError: ``y`` has fewer than 2 dimensions or another number of channels.
        """
        self._check_input_dim(y)
        if not self.training:
            batch = self.running_mean is None
            return F.batch_norm(y, self.running_mean, self.running_var, self.weight, self.bias, batch, 0., self.eps)
        if self.buffer_num == 0:
            return super().forward(y)
        if x is None or conv is None:
            raise RuntimeError(
                f'CBN{self._where()}: in training it needs the convolution before it and that convolution\'s input; '
                'call it through mmdet.ops.norm.conv_norm(conv, norm, x), or use BN, SyncBN or GN here.')
        check_conv(conv)
        self.burnin_steps  # raises before any work if the burn-in's length is not known
        if y.numel() == 0:
            return self._no_positions(y)
        with torch.no_grad():
            mean, var = batch_stats(y)
            self._update_running_stats(mean, var, y.numel() // y.shape[1])
            if self.pools:
                pooled = self._pooled(mean, var, weight_matrix(conv, conv.weight), conv.bias)
            else:
                pooled = mean, var, mean.new_ones(())
        return _PooledNorm.apply(y, self.weight, self.bias, x.detach(), conv.weight.detach(), self, conv,
                                 (mean, var), pooled)

    def _check_input_dim(self, y: Tensor) -> None:
        if y.dim() < 2 or y.shape[1] != self.num_features:
            raise ValueError(f'CBN{self._where()}: expected (N, {self.num_features}, ...), got {tuple(y.shape)}')

    def _no_positions(self, y: Tensor) -> Tensor:
        if not self.affine:
            return y * 1
        shape = (1, -1) + (1, ) * (y.dim() - 2)
        return y * self.weight.view(shape).to(y.dtype) + self.bias.view(shape).to(y.dtype)

    def _update_running_stats(self, mean: Tensor, var: Tensor, positions: int) -> None:
        # Activation checkpointing recomputes the forward inside the backward: not a second batch.
        if not self.track_running_stats or torch._C._current_graph_task_id() != -1:
            return
        self.num_batches_tracked.add_(1)
        rate = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        var = var * (positions / max(positions - 1, 1))
        for running, new in ((self.running_mean, mean), (self.running_var, var)):
            new = new.to(running.dtype)
            running.lerp_(torch.where(torch.isfinite(new), new, running), rate)

    # -- nn.Module ----------------------------------------------------------------------------------------------

    def _load_from_state_dict(self, *args, **kwargs):
        super()._load_from_state_dict(*args, **kwargs)
        self.drop_window()  # it belongs to the weights that were there before

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        device = self._device(fn)
        self.window = deque((WindowEntry(*(t.to(device) for t in entry)) for entry in self.window),
                            maxlen=self.buffer_num)
        return self

    def _device(self, fn=lambda t: t) -> torch.device:
        own = [*self.parameters(recurse=False), *self.buffers(recurse=False)]
        if own:
            return own[0].device
        return fn(self.window[0].mean).device if self.window else torch.device('cpu')

    def _where(self) -> str:
        return f' {self.layer_name}' if self.layer_name else f' (num_features={self.num_features})'

    def extra_repr(self) -> str:
        return (f'{super().extra_repr()}, buffer_num={self.buffer_num}, burnin={self.burnin}, '
                f'by_epoch={self.by_epoch}, two_stage={self.two_stage}, rho={self.rho}')
