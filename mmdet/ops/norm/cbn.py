"""Cross-Iteration Batch Normalization (Yao et al., CVPR 2021, arXiv 2002.05712), and what goes past it.

A convolution's output is normalized with statistics pooled over this batch and the ``buffer_num`` batches before it.
The weights have moved since: the earlier statistics are carried to today's weights (:mod:`.window`), in closed form
and without old weights, so that no autograd call is needed. The mathematics is in ``docs/cbn.md``.
"""
import inspect
import operator
from functools import partialmethod
from typing import Optional

import torch
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from .conv_stats import check_conv, mean_patch, row_dot, slopes, weight_matrix, weight_tensor
from .kernels import batch_stats, per_channel, stats_dtype, without_autocast
from .pooled_norm import Pool, PooledNorm, pool_batch, syncs, update_running_stats
from .window import COMPENSATIONS, ExponentialWindow, SlidingWindow, carry, carry_backward, make_entry

_CHOICES = dict(
    compensation=COMPENSATIONS, backprop=('current', 'window'), pool=('sliding', 'exponential'),
    running_stats=('batch', 'pooled'), slope_dtype=('auto', 'float32'))


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
        compensation: how earlier statistics follow the weights, see :func:`.window.carry`: ``'taylor'`` (the
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
        eps, momentum, affine, track_running_stats: as in BN.

    Shape:
        input (N, C, ...) with any number of spatial dimensions; output the same.

    Raises:
        ValueError: an argument out of its range, naming it.
    """

    _abbr_ = 'bn'

    def __init__(self, num_features: int, buffer_num: int = 3, burnin: int = 0, by_epoch: bool = False,
                 compensation: str = 'taylor', backprop: str = 'current', pool: str = 'sliding',
                 running_stats: str = 'batch', sample_stride: int = 1, sync: bool = False, two_stage: bool = True,
                 rho: float = 1.0, slope_dtype: str = 'auto', eps: float = 1e-5, momentum: Optional[float] = 0.1,
                 affine: bool = True, track_running_stats: bool = True) -> None:
        for name, value, least in (('buffer_num', buffer_num, 0), ('burnin', burnin, 0),
                                   ('sample_stride', sample_stride, 1)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f'CBN: {name} must be an integer of {least} or more, got {value!r}')
        if isinstance(rho, bool) or not isinstance(rho, (int, float)) or not 0 <= rho <= 1:
            raise ValueError(f'CBN: rho must be between 0 (no compensation) and 1 (the full one), got {rho!r}')
        super().__init__(num_features, eps, momentum, affine, track_running_stats)
        self.buffer_num = buffer_num
        self.burnin = burnin
        self.by_epoch = by_epoch
        self.compensation = compensation
        self.backprop = backprop
        self.pool = pool
        self.running_stats = running_stats
        self.sample_stride = sample_stride
        self.sync = sync
        self.two_stage = two_stage
        self.rho = rho
        self.slope_dtype = slope_dtype
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"CBN: {name} must be one of {', '.join(map(repr, choices))}, got "
                                 f'{getattr(self, name)!r}')
        if backprop == 'window' and compensation == 'none':
            raise ValueError("CBN: backprop='window' needs compensation='taylor' or 'secant': statistics that are not "
                             "carried to today's weights have no gradient to them; got compensation='none'")
        self.epoch_length: Optional[int] = None
        self.layer_name = ''
        self.step = 0
        self.window = (SlidingWindow if pool == 'sliding' else ExponentialWindow)(buffer_num)
        self._fed: Optional[tuple] = None

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
        return len(self.window) > 0 and self.window_length(self.step) > 0

    def drop_window(self) -> None:
        """Forget the earlier batches; the burn-in goes on where it was."""
        self.window.clear()

    def window_state(self) -> dict:
        """The window and the iteration count, for a checkpoint: plain containers and tensors."""
        return dict(step=self.step, window=self.window.state())

    def load_window_state(self, state: dict) -> None:
        """Restore what :meth:`window_state` returned.

        A window of another kind (``pool``, ``compensation``) is left out, with a warning.

        Raises:
            ValueError: it is another layer's.
        """
        self.step = int(state['step'])
        self.drop_window()
        saved = state['window']
        entries = saved['entries']
        for entry in entries:
            channels = entry['stats'].shape[1]
            if channels != self.num_features:
                raise ValueError(f'CBN{self._where()}: the window in the checkpoint has {channels} channels, this '
                                 f'layer has {self.num_features}')
        follows = self.compensation != 'none'
        if saved['kind'] != self.pool or any((entry['patch'] is not None) != follows for entry in entries):
            print_log(f'CBN{self._where()}: the checkpoint holds a {saved["kind"]} window of another setting than '
                      f'pool={self.pool!r}, compensation={self.compensation!r}; it starts empty', 'current', 30)
            return
        self.window.load(saved)

    def _advance(self, pooled: Pool, batch: tuple[Tensor, Tensor], conv: nn.Module, y: Tensor, x: Tensor,
                 weight: Tensor) -> None:
        """Take this batch into the window and count the iteration; called in the backward."""
        if y.numel() == 0 and pooled.count == 0:
            return  # no process had a position
        length = self.window_length(self.step)
        # In burn-in only the last batches will ever be pooled.
        wanted = self.window_length(self.step + self.buffer_num) > 0
        self.step += 1
        if not wanted:
            return
        mean, var = batch
        matrix = weight_matrix(conv, weight).to(mean.dtype)
        follow = ()
        if self.compensation == 'none':
            mean = mean if conv.bias is None else mean - conv.bias.detach()
        elif y.numel():
            patch = mean_patch(conv, x, y.shape)
            mean = row_dot(patch, matrix)  # what the carried mean is compared with: equal but for rounding
            dtype = None if self.slope_dtype == 'auto' else mean.dtype
            follow = patch, *slopes(conv, x, y, matrix, batch, self.sample_stride, dtype)
        else:  # other processes had positions: a place in the window without weight
            patch = matrix.new_zeros(getattr(conv, 'groups', 1), matrix.shape[1])
            follow = patch, torch.zeros_like(matrix), torch.zeros_like(var)
        entry = make_entry(pooled.weight, mean, var, *follow)
        length = self.buffer_num if self.two_stage else length
        # Nothing came between forward and backward, as a rule: the entries are those that were carried.
        same = len(pooled.entries) == len(self.window) and all(map(operator.is_, pooled.entries, self.window.entries))
        self.window.push(entry, matrix, length, self.compensation, self.rho, pooled.carried if same else None)

    # -- forward ------------------------------------------------------------------------------------------------

    def feed(self, x: Tensor, conv: nn.Module, y: Tensor) -> None:
        """Tell the layer that ``y``, which comes next, is ``conv(x)``."""
        self._fed = (x, conv, y, version(y))

    def forward(self, y: Tensor, x: Optional[Tensor] = None, conv: Optional[nn.Module] = None) -> Tensor:
        """Normalize ``y = conv(x)``; in training ``x`` and ``conv`` are needed unless ``buffer_num`` is 0.

        Raises:
            RuntimeError: no convolution was given in training, or the burn-in's length is not known.
            TypeError: ``conv`` is no convolution or linear layer.
            ValueError: ``y`` has fewer than 2 dimensions, another number of channels or another device.
        """
        self._check_input_dim(y)
        if not self.training:
            batch = self.running_mean is None
            return F.batch_norm(y, self.running_mean, self.running_var, self.weight, self.bias, batch, 0., self.eps)
        if self.buffer_num == 0 and not (self.sync and syncs()):
            return super().forward(y)
        return self._train_forward(y, x, conv)

    @torch.compiler.disable  # the window is state that no graph can hold
    def _train_forward(self, y: Tensor, x: Optional[Tensor], conv: Optional[nn.Module]) -> Tensor:
        fed, self._fed = self._fed, None
        if self.buffer_num == 0:
            x = conv = None
        else:
            if conv is None and fed is not None and same_values(y, *fed[2:]):
                x, conv = fed[:2]
            self._check_conv(y, x, conv, fed)
            self.burnin_steps  # raises before any work if the burn-in's length is not known
        sync = self.sync and syncs()
        if y.numel() == 0 and not sync:
            return self._no_positions(y)
        with torch.no_grad(), without_autocast(y.device):
            batch = batch_stats(y)
            pooled = self._pool(y, batch, conv, sync)
            self._update_running_stats(pooled)
        if conv is None:
            return PooledNorm.apply(y, self.weight, self.bias, None, None, None, None, pooled, self.eps, sync, None,
                                    None, None)
        weight, bias = (conv.weight, conv.bias) if self.backprop == 'window' and pooled.entries else (None, None)

        def window_grad(grad_means, grad_vars):
            grad = carry_backward(pooled.entries, pooled.carried, grad_means, grad_vars, self.rho)
            return weight_tensor(conv, grad)

        return PooledNorm.apply(
            y, self.weight, self.bias, weight, bias, x.detach(), conv.weight.detach(), pooled, self.eps, sync, None,
            None if weight is None else window_grad, lambda *tensors: self._advance(pooled, batch, conv, *tensors))

    def _pool(self, y: Tensor, batch: tuple[Tensor, Tensor], conv: Optional[nn.Module], sync: bool) -> Pool:
        if conv is None or not self.pools:
            return pool_batch(y, *batch, sync=sync)
        dtype = stats_dtype(y.dtype)
        if any(entry.stats.device != y.device or entry.stats.dtype != dtype for entry in self.window.entries):
            self.window.map_(lambda t: t.to(y.device, dtype))
        entries, own, old = self.window.members(self.window_length(self.step))
        matrix = weight_matrix(conv, conv.weight).to(dtype)
        carried = carry(entries, matrix, self.compensation, self.rho) if entries else None
        return pool_batch(y, *batch, sync=sync, entries=entries, carried=carried, bias=conv.bias, own=own, old=old)

    def _check_input_dim(self, y: Tensor) -> None:
        if y.dim() < 2 or y.shape[1] != self.num_features:
            raise ValueError(f'CBN{self._where()}: expected (N, {self.num_features}, ...), got {tuple(y.shape)}')
        own = self.weight if self.affine else self.running_mean
        if own is not None and own.device != y.device:
            raise ValueError(f'CBN{self._where()}: the input is on {y.device}, the layer on {own.device}; move one '
                             'with .to()')

    def _check_conv(self, y: Tensor, x: Optional[Tensor], conv: Optional[nn.Module], fed: Optional[tuple]) -> None:
        if x is None or conv is None:
            found = '' if fed is None else (f'; the {type(fed[1]).__name__} it was paired with did not make its input: '
                                            'pair them by running the model, convert_norm(..., example_inputs=...)')
            raise RuntimeError(
                f"CBN{self._where()}: in training it needs the convolution before it and that convolution's input"
                f'{found}. Call it through mmdet.ops.norm.conv_norm(conv, norm, x), convert the model with '
                'mmdet.ops.norm.convert_norm(model, cfg, example_inputs), or use BN, SyncBN or GN here.')
        check_conv(conv)
        if isinstance(conv, nn.Linear) and y.dim() != 2:
            raise ValueError(f'CBN{self._where()}: after nn.Linear it takes (N, {self.num_features}), got '
                             f'{tuple(y.shape)}; flatten the other dimensions into N')

    def _no_positions(self, y: Tensor) -> Tensor:
        for own, combine in ((self.weight, torch.mul), (self.bias, torch.add)):
            y = y * 1 if own is None else combine(y, per_channel(own, y).to(y.dtype))
        return y

    def _update_running_stats(self, pooled: Pool) -> None:
        # Activation checkpointing recomputes the forward inside the backward: not a second batch.
        if not self.track_running_stats or torch._C._current_graph_task_id() != -1:
            return
        if self.running_stats == 'pooled':
            mean, var, count = pooled.mean, pooled.var, 1 / pooled.per_position
        else:
            mean, var, count = pooled.batch_mean, pooled.batch_var, pooled.count
        update_running_stats(self, mean, var, count, pooled.count)

    # -- nn.Module ----------------------------------------------------------------------------------------------

    def _load_from_state_dict(self, *args, **kwargs):
        super()._load_from_state_dict(*args, **kwargs)
        self.drop_window()  # it belongs to the weights that were there before

    def __getstate__(self) -> dict:
        return {**self.__dict__, '_fed': None}

    def _where(self) -> str:
        return f' {self.layer_name}' if self.layer_name else f' (num_features={self.num_features})'

    def extra_repr(self) -> str:
        names = [name for name in inspect.signature(CBN.__init__).parameters if name not in _BN_ARGUMENTS]
        return f'{super().extra_repr()}, ' + ', '.join(f'{name}={getattr(self, name)!r}' for name in names)


def version(y: Tensor) -> int:
    """Grows whenever ``y`` is changed in place."""
    return 0 if y.is_inference() else y._version


def same_values(y: Tensor, earlier: Tensor, earlier_version: int) -> bool:
    """Whether ``y`` is ``earlier`` or an alias (a module's backward hooks make one), not changed in place since."""
    alias = y is earlier or (y.dtype == earlier.dtype and y.shape == earlier.shape and y.stride() == earlier.stride()
                             and y.data_ptr() == earlier.data_ptr() != 0)
    return alias and version(y) == earlier_version


_BN_ARGUMENTS = ('self', 'num_features', 'eps', 'momentum', 'affine', 'track_running_stats')


class CBNPlus(CBN):
    """:class:`CBN` with the settings we recommend; every argument can still be given. ``type='CBN+'``."""

    __init__ = partialmethod(
        CBN.__init__, buffer_num=15, compensation='secant', backprop='window', pool='exponential',
        running_stats='pooled', sample_stride=2)


class SyncCBN(CBN):
    """:class:`CBN` pooled over the processes as well as over iterations. ``type='SyncCBN'``."""

    __init__ = partialmethod(CBN.__init__, sync=True)
