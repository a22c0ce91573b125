"""A GPU that is not there: tensors that say they are on one and compute on the CPU.

It finds tensors of two devices in one operation, reads back to the host (each makes the host wait until a GPU has done
all that was queued), and, with the kernels of batch norm that torch has for CUDA only written out, whether the CUDA
branch of a layer gives what its CPU branch gives::

    model = move(build())
    with Pretend() as seen:
        ...  # inputs come by .to(GPU), or by the model's preprocessor
    seen.reads  # Counter of (operation, place in mmdet)

What counts as a read: a number or a list of a tensor; what has a size that the values decide (``nonzero``, an index or
an assignment by a mask, ``unique``, ``repeat_interleave`` without ``output_size``; torchvision's ``nms``, whose kernel
ends in a ``masked_select``, or in older versions in a copy, which no caller sees); ``equal``; ``bincount``, which looks
for its largest value, twice; a copy to the CPU that is not ``non_blocking``. ``mask[...] = number`` is a fill and reads
nothing. Copies to the GPU are counted apart, in ``writes``: those not ``non_blocking`` wait as well, for as long.

Not modelled: autocast, streams, resizing in place (it raises). Needs torch 2.10.
"""

import traceback
from collections import Counter
from pathlib import Path
from typing import Optional

import torch
from torch import Tensor, nn
from torch.utils import backend_registration
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

import mmdet

_PACKAGE = str(Path(mmdet.__file__).parent)
_READS = dict.fromkeys(
    [
        '_local_scalar_dense',
        'nonzero',
        'masked_select',
        '_unique',
        '_unique2',
        'unique_dim',
        'unique_consecutive',
        'unique_dim_consecutive',
        'equal',
        'nms',
    ],
    1,
) | dict(bincount=2)
_INDEXED = ('index', 'index_put', 'index_put_', '_index_put_impl_', '_unsafe_index', '_unsafe_index_put')
_COPIES = ('_to_copy', 'copy_')
_seen: Optional['Pretend'] = None


class _Module(backend_registration._DummyBackendModule):
    """What torch asks of the backend."""

    def is_available(self) -> bool:
        return _seen is not None  # elsewhere in this process a machine without a GPU stays one


class _Hook(backend_registration._DummyPrivateUse1Hook):
    is_available = _Module.is_available


backend_registration._setup_privateuseone_for_python_backend('pretend', _Module(), _Hook())
GPU = torch.device('pretend', 0)


class OnGpu(Tensor):
    """``elem``, a CPU tensor, as one that says it is on a GPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    is_cuda = property(lambda self: True)

    @staticmethod
    def __new__(cls, elem: Tensor, is_number: bool = False) -> 'OnGpu':
        own = Tensor._make_wrapper_subclass(
            cls,
            elem.size(),
            strides=elem.stride(),
            storage_offset=elem.storage_offset(),
            dtype=elem.dtype,
            layout=elem.layout,
            device=GPU,
        )
        own.elem = elem
        own.is_number = is_number  # a number of Python's: a real GPU's indexing keeps it on the CPU
        return own

    def __init__(self, *args) -> None:
        pass

    def __repr__(self) -> str:
        return f'OnGpu({self.elem})'

    def tolist(self):
        _count('tolist')
        return self.elem.tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class Pretend(TorchDispatchMode):
    """While active, a GPU is there.

    Attributes:
        operations: Counter of the names of operations on it.
        reads, writes: Counters of (operation, place), copies from and to it that the host waits for. A place is a line
            of mmdet, ``models/heads.py:12`` say, or '' outside.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations, self.reads, self.writes = Counter(), Counter(), Counter()

    def __enter__(self) -> 'Pretend':
        global _seen
        _seen = self
        return super().__enter__()

    def __exit__(self, *error):
        global _seen
        _seen = None
        return super().__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def move(model: nn.Module) -> nn.Module:
    """Parameters, buffers and the preprocessor's target, in place."""
    for module in model.modules():
        for name, own in module._parameters.items():
            if own is not None:
                module._parameters[name] = nn.Parameter(OnGpu(own.detach().clone()), own.requires_grad)
        for name, own in module._buffers.items():
            if own is not None:
                module._buffers[name] = OnGpu(own.detach().clone())
    if hasattr(model, 'data_preprocessor'):
        model.data_preprocessor._device = GPU
    return model


def _place() -> str:
    own = [frame for frame in traceback.extract_stack() if frame.filename.startswith(_PACKAGE)]
    return f'{own[-1].filename[len(_PACKAGE) + 1 :]}:{own[-1].lineno}' if own else ''


def _count(name: str, times: int = 1, kind: str = 'reads') -> None:
    if _seen is not None and times:
        getattr(_seen, kind)[name, _place()] += times


def _is_gpu(device) -> bool:
    return torch.device(device).type == GPU.type


def _reads(name: str, args: tuple, kwargs: dict, target) -> int:
    """How often an operation on the GPU reads back."""
    if name in _INDEXED:
        masks = sum(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
        fill = (
            name != 'index'
            and masks == 1 == sum(index is not None for index in args[1])
            and (not isinstance(args[2], OnGpu) or args[2].is_number)
            and args[2].numel() == 1
        )
        return 0 if fill else masks
    if name in _COPIES:
        waits = not (kwargs.get('non_blocking') or len(args) > 2 and args[2])
        leaves = not isinstance(args[0], OnGpu) if name == 'copy_' else target is not None and not _is_gpu(target)
        return int(waits and leaves)
    if name == 'repeat_interleave':
        return int(kwargs.get('output_size') is None)
    return _READS.get(name, 0)


def _run(func, args: tuple, kwargs: dict):
    flat, spec = tree_flatten((args, kwargs))
    name = func.overloadpacket.__name__
    target = kwargs.get('device')
    gpu = [t for t in flat if isinstance(t, OnGpu)]
    cpu = [t for t in flat if isinstance(t, Tensor) and not isinstance(t, OnGpu)]
    to_gpu = target is not None and _is_gpu(target)
    if not gpu and not to_gpu:
        return func(*args, **kwargs)
    if _seen is not None:
        _seen.operations[name] += 1
    if gpu:
        _count(name, _reads(name, args, kwargs, target))
    uploads = 0
    if name in _COPIES:
        waits = not (kwargs.get('non_blocking') or len(args) > 2 and args[2])
        uploads = int(waits and bool(cpu) and (to_gpu or isinstance(args[0], OnGpu)))
    elif name in _INDEXED and isinstance(args[0], OnGpu):
        indices = {id(index) for index in args[1]}
        uploads = sum(id(t) in indices for t in cpu)
        cpu = [t for t in cpu if id(t) not in indices]  # an index may stay on the CPU
    _count(name, uploads, 'writes')
    # A number may stay there too.
    if name not in _COPIES and any(t.dim() or name in ('cat', 'stack') for t in cpu):
        raise RuntimeError(f'{name} at {_place()}: expected all tensors on one device, got them on the GPU and the CPU')
    plain = [t.elem if isinstance(t, OnGpu) else t for t in flat]
    args, kwargs = tree_unflatten(plain, spec)
    if target is not None:
        kwargs['device'] = torch.device('cpu')
    kwargs.pop('pin_memory', None)
    result = _CUDA_ONLY.get(name, func)(*args, **kwargs)
    if name == 'copy_' and not isinstance(flat[0], OnGpu) or target is not None and not to_gpu:
        return result
    same = {id(t.elem): t for t in gpu}  # of operations in place
    if torch.Tag.inplace_view in func.tags:  # squeeze_, say: the wrapper's shape follows
        with no_dispatch():
            func(flat[0], *args[1:], **kwargs)

    def wrap(out):
        if not isinstance(out, Tensor):
            return out
        own = same.get(id(out))
        if own is not None and own.shape != out.shape:
            raise NotImplementedError(f'{name} at {_place()}: a pretended tensor cannot be resized')
        return OnGpu(out, name == 'scalar_tensor') if own is None else own

    return tree_map(wrap, result)


# -- kernels that torch has for CUDA only, from their definitions: in float64, rounded once ---------------------------


def _per_channel(values: Tensor, like: Tensor) -> Tensor:
    return values.double().view(1, -1, *(1,) * (like.dim() - 2))


def _sum(t: Tensor) -> Tensor:
    return t.sum([d for d in range(t.dim()) if d != 1])


def _update_stats(y, running_mean, running_var, momentum):
    """Mean and biased variance of each channel; running ones are not followed."""
    assert running_mean is None and running_var is None
    count = y.numel() // y.shape[1]
    mean = _sum(y.double()) / count
    return mean.float(), (_sum((y.double() - _per_channel(mean, y)) ** 2) / count).float()


def _backward_reduce(grad, y, mean, invstd, weight, *wanted):
    """Sums of the gradient and of gradient times centred input; the gradients of weight and bias."""
    total, centred = _sum(grad.double()), _sum(grad.double() * (y.double() - _per_channel(mean, y)))
    return total.float(), centred.float(), (centred * invstd).float(), total.float()


def _backward_elemt(grad, y, mean, invstd, weight, total, centred, count):
    """The gradient of the input, from sums over ``count`` positions."""
    mean, invstd, total, centred = (_per_channel(t, y) for t in (mean, invstd, total, centred))
    scale = invstd if weight is None else invstd * _per_channel(weight, y)
    count = count.sum()
    return ((grad - total / count - (y - mean) * invstd**2 * centred / count) * scale).to(y.dtype)


_CUDA_ONLY = dict(
    batch_norm_update_stats=_update_stats,
    batch_norm_backward_reduce=_backward_reduce,
    batch_norm_backward_elemt=_backward_elemt,
)

# -- what torch asks of a backend where no mode is active -------------------------------------------------------------


def _empty(size, *layout, dtype=None, **kwargs):
    return OnGpu(torch.empty_strided(size, *layout, dtype=dtype) if layout else torch.empty(size, dtype=dtype))


def _copy(to, source, non_blocking=False):
    _count('copy_', int(not non_blocking), 'writes' if isinstance(to, OnGpu) else 'reads')
    getattr(to, 'elem', to).copy_(getattr(source, 'elem', source))
    return to


_library = torch.library.Library('aten', 'IMPL')
for _name, _kernel in (('empty_strided', _empty), ('empty.memory_format', _empty), ('copy_', _copy)):
    _library.impl(_name, _kernel, 'PrivateUse1')
