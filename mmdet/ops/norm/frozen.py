"""A convolution and a batch norm that uses running statistics, without what the norm keeps for its gradient."""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ..conv import conv_backward
from ..paths import plain_conv, unobserved


def frozen_conv_norm(conv: nn.Module, norm: nn.Module, x: Tensor, forwards: tuple) -> Tensor | None:
    """Compute ``norm(conv(x))`` with the norm's running statistics, in the memory of ``conv(x)``.

    For the gradient of its weight a batch norm keeps its input, as large as its output. Here that gradient comes from
    the convolution's. With running statistics both are one convolution, of weights W' = W * scale; with G = dL/dW' and
    y = conv(x), the sum of y dL/dout over all places is that of W * G over a channel's weights, as y is linear in W.
    The result is the same to the bit, the gradients up to rounding.

    Args:
        conv: ``nn.Conv2d`` without a bias.
        norm: in evaluation mode.
        x: (N, C, H, W).
        forwards: the ``forward`` of norms that, in evaluation mode, is that of ``nn.BatchNorm2d``.

    Returns:
        (N, C', H', W'); None where this cannot be done: the modules are others, watched by hooks, traced or not on the
        CPU.
    """
    if norm.training or type(norm).forward not in forwards or norm.running_mean is None or x.dim() != 4:
        return None
    if not plain_conv(conv) or conv.bias is not None or not unobserved(x, conv, norm):
        return None
    learns = x.requires_grad or conv.weight.requires_grad or any(p.requires_grad for p in norm.parameters())
    compute = _FrozenConvNorm.apply if torch.is_grad_enabled() and learns else _conv_norm
    return compute(
        x,
        conv.weight,
        norm.weight,
        norm.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        (conv.stride, conv.padding, conv.dilation, conv.groups),
    )


def _conv_norm(x, weight, gamma, beta, mean, var, eps, geometry) -> Tensor:
    y = F.conv2d(x, weight, None, *geometry)
    unused = [mean.new_empty(0) for _ in range(2)]  # statistics, which are the running ones
    torch.ops.aten.native_batch_norm.out(
        y, gamma, beta, mean, var, False, 0.0, eps, out=y, save_mean=unused[0], save_invstd=unused[1]
    )
    return y


class _FrozenConvNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, gamma, beta, mean, var, eps, geometry) -> Tensor:
        ctx.save_for_backward(x, weight, gamma, mean, var)
        ctx.eps, ctx.geometry = eps, geometry
        return _conv_norm(x, weight, gamma, beta, mean, var, eps, geometry)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple:
        x, weight, gamma, mean, var = ctx.saved_tensors
        inverse = (var + ctx.eps).rsqrt()
        scale = inverse if gamma is None else gamma * inverse
        stride, padding, dilation, groups = ctx.geometry
        geometry = stride, padding, dilation, False, (0, 0), groups
        need_x, need_weight, need_gamma, need_beta = ctx.needs_input_grad[:4]
        scaled = (weight * scale[:, None, None, None]).to(grad.dtype)
        wanted = (need_x, need_weight or need_gamma, need_gamma or need_beta)
        of_x, of_weight, total = conv_backward(grad, x.to(grad.dtype), scaled, weight.shape[:1], *geometry, wanted)
        of_gamma = None
        total = None if total is None else total.to(weight.dtype)
        if of_weight is not None:
            of_weight = of_weight.to(weight.dtype)
            if need_gamma:
                of_gamma = ((of_weight * weight).flatten(1).sum(1) - mean * total) * inverse
            of_weight = of_weight.mul_(scale[:, None, None, None]) if need_weight else None
        of_x = None if of_x is None else of_x.to(x.dtype)
        return of_x, of_weight, of_gamma, total if need_beta else None, None, None, None, None
