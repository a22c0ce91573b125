"""Cross-Iteration Batch Normalization (Yao et al., CVPR 2021, arXiv 2002.05712), and what goes past it.

A convolution's output is normalized with statistics pooled over this batch and the ``buffer_num`` batches before it.
The weights have moved since: the earlier statistics are carried to today's weights (:mod:`.algebra`), in closed form
and without old weights, so that no autograd call is needed. The mathematics is in ``docs/cbn.md``.
"""

import inspect
import math
import warnings
from functools import partialmethod
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from .algebra import COMPENSATIONS, Entry, Share
from .conv_stats import Conv, check_conv, mean_patch, variance_gradient, weight_matrix
from .kernels import batch_stats, outside_graphs, per_channel, positions, stats_dtype, without_autocast
from .pooled_norm import Pool, PooledNorm, Step, pool_batch, pool_processes, syncs, update_running_stats
from .window import History, Window

_CHOICES = dict(
    compensation=COMPENSATIONS,
    backprop=('current', 'window'),
    pool=('sliding', 'exponential'),
    running_stats=('batch', 'pooled'),
    slope_dtype=('auto', 'float32'),
    compile=('off', 'auto'),
)

Affine = tuple[Tensor | None, Tensor | None]


class CBN(_BatchNorm):
    r"""Cross-Iteration Batch Normalization after a convolution or linear layer.

    With this batch and n - 1 earlier ones, each carried to today's weights,

    .. math:: \bar\mu = \frac1n \sum_i \mu_i, \quad
        \bar\sigma^2 = \frac1n \sum_i \sigma_i^2 + \frac1n \sum_i (\mu_i - \bar\mu)^2, \quad
        z = \gamma (y - \bar\mu) / \sqrt{\bar\sigma^2 + \epsilon} + \beta

    In evaluation the layer is BN. Parameters and buffers have BN's names and shapes. The window is no part of the
    ``state_dict``: see :meth:`window_state`. Statistics and window are float32 whatever the activations are. A batch
    that overflows is left out of the window and of the running statistics.

    Args:
        num_features: number C of channels.
        buffer_num: number of earlier batches in the window; 0 is BN.
        burnin: nothing is pooled (plain BN) for so many training iterations, or epochs with ``by_epoch``.
        by_epoch: count ``burnin`` in epochs. ``CBNHook`` sets :attr:`epoch_length`; without it the first
            training forward raises RuntimeError.
        compensation: how earlier statistics follow the weights, see :func:`.algebra.carry`: ``'taylor'`` (the
            paper), ``'secant'`` (closer to the truth at the same price) or ``'none'`` (naive pooling).
        backprop: the gradient flows through the ``'current'`` batch's statistics only (the paper), or through those
            of the whole ``'window'``, which are functions of the weights too; then the layer does not depend on the
            scale of the weights, as BN. Needs a compensation.
        pool: ``'sliding'``, the last batches equally weighted (the paper), or ``'exponential'``, whose memory does
            not grow with ``buffer_num``.
        running_stats: what running mean and variance follow: the current ``'batch'`` (the paper) or the ``'pooled'``
            statistics that training normalizes with.
        sample_stride: s: the slopes are estimated on about one position in s^2; 1 is exact.
        sync: pool over the processes of the default group too. With ``'taylor'`` and ``'none'`` k processes equal one
            with their images; with ``'secant'`` they are closer to the truth, as each carries its own part.
        two_stage: False: the window grows linearly from 0 to ``buffer_num`` over the burn-in.
        rho: scale of the compensation, 0 to 1.
        slope_dtype: the slopes' products are taken in ``'float32'``, or, ``'auto'``, in bfloat16 for float32
            activations on a CPU that has it in hardware. Results are summed and kept in float32.
        compile: ``'auto'``: on a GPU with Triton the per-channel algebra runs compiled, in a few launches a layer.
        eps, momentum, affine, track_running_stats: as in BN.

    Shape:
        input (N, C, ...) with any number of spatial dimensions; output the same.

    Raises:
        ValueError: an argument out of its range, naming it.
    """

    _abbr_ = 'bn'

    def __init__(
        self,
        num_features: int,
        buffer_num: int = 3,
        burnin: int = 0,
        by_epoch: bool = False,
        compensation: str = 'taylor',
        backprop: str = 'current',
        pool: str = 'sliding',
        running_stats: str = 'batch',
        sample_stride: int = 1,
        sync: bool = False,
        two_stage: bool = True,
        rho: float = 1.0,
        slope_dtype: str = 'auto',
        compile: str = 'off',
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
    ) -> None:
        for name, value, least in (
            ('buffer_num', buffer_num, 0),
            ('burnin', burnin, 0),
            ('sample_stride', sample_stride, 1),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f'CBN: {name} must be an integer of {least} or more, got {value!r}')
        if isinstance(rho, bool) or not isinstance(rho, (int, float)) or not 0 <= rho <= 1:
            raise ValueError(f'CBN: rho must be between 0 (no compensation) and 1 (the full one), got {rho!r}')
        super().__init__(num_features, eps, momentum, affine, track_running_stats)
        self.buffer_num, self.burnin, self.by_epoch, self.two_stage = buffer_num, burnin, by_epoch, two_stage
        self.compensation, self.backprop, self.pool, self.rho = compensation, backprop, pool, rho
        self.running_stats, self.sync = running_stats, sync
        self.sample_stride, self.slope_dtype = sample_stride, slope_dtype
        for name, choices in _CHOICES.items():
            if (value := vars(self).get(name, compile)) not in choices:
                raise ValueError(f'CBN: {name} must be one of {", ".join(map(repr, choices))}, got {value!r}')
        if backprop == 'window' and compensation == 'none':
            raise ValueError(
                "CBN: backprop='window' needs compensation='taylor' or 'secant': statistics that are not "
                "carried to today's weights have no gradient to them; got compensation='none'"
            )
        self.epoch_length: int | None = None
        self.layer_name = ''
        self.step = 0
        self.window = Window(buffer_num, pool, compensation, rho, compile)

    @property
    def burnin_steps(self) -> int:
        """Length of the burn-in in training iterations."""
        if not (self.by_epoch and self.burnin):
            return self.burnin
        if self.epoch_length is None:
            raise RuntimeError(
                f'CBN{self._where()}: burnin={self.burnin} counts epochs (by_epoch=True), but the length of an epoch '
                "is not known. Add default_hooks=dict(cbn=dict(type='CBNHook')) to the config, or set the layer's "
                'epoch_length, or use by_epoch=False.'
            )
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
        return len(self.window) > 0 and self.window_length(self.step) > 0

    def drop_window(self) -> None:
        """Forget the earlier batches; the burn-in goes on where it was."""
        self.window.clear()

    def window_state(self) -> dict:
        """The window and the iteration count, for a checkpoint: plain containers and tensors."""
        return dict(step=self.step, window=self.window.state())

    def load_window_state(self, state: dict) -> None:
        """Restore what :meth:`window_state` returned; a window of another setting is left out, with a warning.

        Raises:
            ValueError: it is another layer's.
        """
        self.step = int(state['step'])
        self.drop_window()
        saved, follows = state['window'], self.compensation != 'none'
        for entry in saved['entries']:
            shapes = [
                None if entry.get(key) is None else tuple(entry[key].shape)
                for key in ('stats', 'patch', 'slope', 'own')
            ]
            (pair, channels), (patch, slope, own) = entry['stats'].shape, shapes[1:]
            if channels != self.num_features:
                raise ValueError(
                    f'CBN{self._where()}: the window in the checkpoint has {channels} channels, this '
                    f'layer has {self.num_features}'
                )
            if (
                pair < 2
                or patch
                and (len(patch) != 2 or slope != (channels, patch[1]))
                or own not in (None, (channels,))
                or entry['stats'].isnan().any()
                or not 0 <= float(entry['weight']) < math.inf
            ):
                raise ValueError(
                    f'CBN{self._where()}: the window in the checkpoint is damaged, its tensors have the shapes {shapes}'
                )
        if saved['kind'] != self.pool or any((entry['patch'] is not None) != follows for entry in saved['entries']):
            warnings.warn(
                f'CBN{self._where()}: the checkpoint holds a {saved["kind"]} window of another setting than '
                f'pool={self.pool!r}, compensation={self.compensation!r}; it starts empty',
                stacklevel=2,
            )
            return
        self.window.load(saved)

    def forward(
        self, y: Tensor, x: Tensor | None = None, conv: nn.Module | None = None, affine: Affine | None = None
    ) -> Tensor:
        """Normalize ``y = conv(x)``; in training ``x`` and ``conv`` are needed unless ``buffer_num`` is 0.

        ``affine``: gamma and beta, (C,) or None, in place of the layer's own; not with a ``buffer_num`` of 0.

        Raises:
            RuntimeError: no convolution was given in training, or the burn-in's length is not known.
            TypeError: ``conv`` is no convolution or linear layer.
            ValueError: ``y`` has fewer than 2 dimensions, another number of channels or another device.
        """
        self._check_input_dim(y)
        weight, bias = affine or (self.weight, self.bias)
        if not self.training:
            batch = self.running_mean is None
            return F.batch_norm(y, self.running_mean, self.running_var, weight, bias, batch, 0.0, self.eps)
        if self.buffer_num == 0 and not (self.sync and syncs()):
            return super().forward(y)
        return self._train_forward(y, x, conv, weight, bias)

    @outside_graphs  # the window is state that no graph can hold
    def _train_forward(
        self, y: Tensor, x: Tensor | None, conv: nn.Module | None, weight: Tensor | None, bias: Tensor | None
    ) -> Tensor:
        sync = self.sync and syncs()
        if self.buffer_num:
            self._check_conv(y, x, conv)
        x, conv = cast(Tensor, x), cast(Conv, conv)  # checked, or not read
        if y.numel() == 0 and not sync:
            return _no_positions(y, weight, bias)
        matrix = weight_matrix(conv, conv.weight).to(stats_dtype(y.dtype)) if self.buffer_num else None
        with torch.no_grad(), without_autocast(y.device):
            mean, var = batch_stats(y)
            history = None
            if matrix is not None and self.pools:
                history = self.window.look_back(_less(mean, conv.bias), var, matrix, self.window_length(self.step))
            pool = (
                pool_processes(mean, var, positions(y), history)
                if sync
                else pool_batch(mean, var, positions(y), self.window, history)
            )
            finite = pool.var < torch.inf if y.is_cuda else math.isfinite(pool.var.sum())
            self._update_running_stats(pool, finite)
        if matrix is None:
            return PooledNorm.apply(y, weight, bias, Step(pool, self.eps, sync))
        step = CBNStep(self, conv, (mean, var), history, pool, sync, finite)
        follow = (matrix, conv.bias) if history and self.backprop == 'window' else (matrix.detach(), None)
        return PooledNorm.apply(y, weight, bias, step, x.detach(), *follow)

    def _check_input_dim(self, y: Tensor) -> None:
        if y.dim() < 2 or y.shape[1] != self.num_features:
            raise ValueError(f'CBN{self._where()}: expected (N, {self.num_features}, ...), got {tuple(y.shape)}')
        own = self.weight if self.affine else self.running_mean
        if own is not None and own.device != y.device:
            raise ValueError(
                f'CBN{self._where()}: the input is on {y.device}, the layer on {own.device}; move one with .to()'
            )

    def _check_conv(self, y: Tensor, x: Tensor | None, conv: nn.Module | None) -> None:
        _ = self.burnin_steps  # raises if the burn-in's length is not known
        if x is None or conv is None:
            raise RuntimeError(
                f"CBN{self._where()}: in training it needs the convolution before it and that convolution's input. "
                'Call it through mmdet.ops.norm.conv_norm(conv, norm, x), convert the model with '
                'mmdet.ops.norm.convert_norm(model, cfg, example_inputs), or use BN, SyncBN or GN here.'
            )
        check_conv(conv)
        if isinstance(conv, nn.Linear) and y.dim() != 2:
            raise ValueError(
                f'CBN{self._where()}: after nn.Linear it takes (N, {self.num_features}), got '
                f'{tuple(y.shape)}; flatten the other dimensions into N'
            )

    def _update_running_stats(self, pool: Pool, finite: bool | Tensor) -> None:
        # Activation checkpointing recomputes the forward inside the backward: not a second batch.
        if not self.track_running_stats or torch._C._current_graph_task_id() != -1:
            return
        mean, var, count = pool.batch
        seen = count > 0
        if self.running_stats == 'pooled':
            mean, var, count = pool.mean, pool.var, 1 / pool.per_position
        update_running_stats(self, mean, var, count, finite, seen)

    def _load_from_state_dict(self, *args, **kwargs):
        super()._load_from_state_dict(*args, **kwargs)
        self.drop_window()  # it belongs to the weights that were there before

    def _where(self) -> str:
        return f' {self.layer_name}' if self.layer_name else f' (num_features={self.num_features})'

    def extra_repr(self) -> str:
        own = [name for name in inspect.signature(CBN.__init__).parameters if name not in _BN_ARGUMENTS]
        values = (f'{name}={vars(self).get(name, self.window.compile)!r}' for name in own)
        return f'{super().extra_repr()}, {", ".join(values)}'


class CBNStep(Step):
    """One training iteration of a :class:`CBN`: the gradient through its window, and what enters the window.

    ``batch``: mean and variance of this process's part; ``finite``: whether the pooled ones are.
    """

    def __init__(
        self,
        layer: CBN,
        conv: Conv,
        batch: tuple[Tensor, Tensor],
        history: History | None,
        pool: Pool,
        sync: bool,
        finite: bool | Tensor,
    ) -> None:
        super().__init__(pool, layer.eps, sync)
        self.layer: CBN | None = layer
        self.window, self.conv, self.batch, self.history, self.finite = layer.window, conv, batch, history, finite

    def gradient(self, total: Tensor, projected: Tensor) -> tuple[Tensor | None, Tensor | None]:
        if self.history is None:
            return None, None
        apart = (self.batch[0] - self.pool.mean) - self.history.carried.gaps
        share = self.pool.entry_share / self.pool.per_position
        grad, grad_means = self.window.gradient(self.history, apart, total, projected, share)
        return grad, None if self.conv.bias is None else (grad_means * share).sum(0)

    def finish(self, y: Tensor, x: Tensor, matrix: Tensor) -> None:  # type: ignore[override]  # both are given here
        layer, self.layer = self.layer, None
        if layer is None:
            return  # a second backward through a graph that was kept
        length = layer.window_length(layer.step)
        # In burn-in only the last batches will ever be pooled.
        wanted = layer.window_length(layer.step + layer.buffer_num) > 0
        if not y.numel() and not self.pool.batch[2]:
            return  # no process had a position
        layer.step += 1
        if not wanted or self.finite is False:
            return
        (mean, var), conv = self.batch, self.conv
        patch = grad = None
        scale: Share = 1.0
        if layer.compensation != 'none':
            if y.numel():
                patch = mean_patch(conv, x, y.shape)
                dtype = None if layer.slope_dtype == 'auto' else mean.dtype
                grad, scale = variance_gradient(conv, x, y, matrix, mean, var, layer.sample_stride, dtype)
            else:  # other processes had positions: a place in the window without weight
                patch, grad = matrix.new_zeros(getattr(conv, 'groups', 1), matrix.shape[1]), matrix * 0
        pooled = None if self.sync else (_less(self.pool.mean, conv.bias), self.pool.var)
        layer.window.push(
            Entry(self.pool.weight, _less(mean, conv.bias), var, patch),
            grad,
            scale,
            matrix,
            layer.buffer_num if layer.two_stage else length,
            self.history,
            pooled,
        )


def _no_positions(y: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    for own, combine in ((weight, torch.mul), (bias, torch.add)):
        y = y * 1 if own is None else combine(y, per_channel(own, y).to(y.dtype))
    return y


def _less(mean: Tensor, bias: Tensor | None) -> Tensor:
    return mean if bias is None else mean - bias.detach()


_BN_ARGUMENTS = ('self', 'num_features', 'eps', 'momentum', 'affine', 'track_running_stats')


class CBNPlus(CBN):
    """:class:`CBN` with the settings we recommend; every argument can still be given. ``type='CBN+'``."""

    __init__ = partialmethod(
        CBN.__init__,
        buffer_num=15,
        compensation='secant',
        backprop='window',
        pool='exponential',
        running_stats='pooled',
        sample_stride=2,
    )


class SyncCBN(CBN):
    """:class:`CBN` pooled over the processes as well as over iterations. ``type='SyncCBN'``."""

    __init__ = partialmethod(CBN.__init__, sync=True)
