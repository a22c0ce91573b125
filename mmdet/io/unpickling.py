"""What pickled files of strangers may hold beside tensors: NumPy's arrays and scalars, made without its own unpickling,
which takes memory's layout and even pointers from the file."""

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

#: of tuples in tuples; hashing them, C code calls itself without a check of the stack
DEEPEST = 100


class Dtype:
    """Stands in for numpy.dtype while a pickle is read; of plain numbers and texts only."""

    def __init__(self, code: str, align: bool = False, copy: bool = False) -> None:
        self.value = np.dtype(code)
        if self.value.hasobject or self.value.kind not in 'biufcUS':
            raise pickle.UnpicklingError(f'an array of {self.value} is not read')

    def __setstate__(self, state: tuple) -> None:
        order, *rest = state[1:5]
        if order not in ('<', '>', '=', '|') or rest != [None, None, None]:
            raise pickle.UnpicklingError('an array of a kind of its own is not read')
        self.value = self.value.newbyteorder(order)


class Array:
    """Stands in for numpy.ndarray while a pickle is read."""

    value: np.ndarray | None = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, data = state
        self.value = _from_buffer(data, dtype, shape, 'F' if fortran else 'C')


def _reconstruct(kind: type, shape: tuple, code: bytes) -> Array:
    return Array()


def _from_buffer(data: bytes, dtype: Dtype, shape: tuple, order: Literal['C', 'F']) -> np.ndarray:
    return np.frombuffer(bytes(data), dtype.value).reshape(shape, order=order).copy(order)


def _array(data: bytes, dtype: Dtype, shape: tuple, order: Literal['C', 'F']) -> Array:
    array = Array()
    array.value = _from_buffer(data, dtype, shape, order)
    return array


def _scalar(dtype: Dtype, data: bytes) -> np.generic:
    return np.frombuffer(data.encode('latin1') if isinstance(data, str) else data, dtype.value, 1)[0]


def _no_bytes() -> bytes:
    return b''  # as pickle writes those of an empty array


#: by the names that NumPy 1 and 2, and pickle's protocols before 3 and since, give them
REPLACEMENTS = {
    'builtins.bytes': _no_bytes,
    '__builtin__.bytes': _no_bytes,
    'numpy.ndarray': Array,
    'numpy.dtype': Dtype,
    'numpy.core.numeric._frombuffer': _array,
    'numpy._core.numeric._frombuffer': _array,
    **{
        f'numpy.{core}.multiarray.{name}': function
        for core in ('core', '_core')
        for name, function in (('_reconstruct', _reconstruct), ('scalar', _scalar))
    },
}


def restore(value: Any) -> Any:
    """``value`` with NumPy's arrays in the places of :class:`Array`."""
    if isinstance(value, Array):
        return value.value
    if isinstance(value, Dtype):
        raise pickle.UnpicklingError('numpy.dtype alone is not read')
    if isinstance(value, dict):
        for key in list(value):
            old = dict.__getitem__(value, key)
            new = restore(old)
            if new is not old:
                dict.__setitem__(value, key, new)
    elif type(value) in (list, tuple):
        changed = [restore(one) for one in value]
        return type(value)(changed) if any(new is not old for new, old in zip(changed, value)) else value
    elif isinstance(value, HistoryBuffer):
        restore(vars(value))
    return value


def check_depth(file: bytes | BinaryIO, size: int) -> None:
    """Read the opcodes of a pickle without doing what they say.

    Raises:
        pickle.UnpicklingError: tuples in tuples beyond :data:`DEEPEST`, a memo beyond ``size``, the number of bytes, or
            a bytearray of any length. ValueError: it is no pickle.
    """
    depths: list[int] = []  # of tuples, for each value on the stack
    marks: list[int] = []
    memo: dict[int, int] = {}
    arg: Any
    for op, arg, _ in pickletools.genops(file):
        name = op.name
        if name == 'MARK':
            marks.append(len(depths))
            continue
        if name in ('PUT', 'BINPUT', 'LONG_BINPUT', 'MEMOIZE'):
            key = len(memo) if name == 'MEMOIZE' else int(arg)
            if key > size:
                raise pickle.UnpicklingError(f'a memo of {key} values in {size} bytes')
            memo[key] = depths[-1] if depths else 0
            continue
        if name in ('GET', 'BINGET', 'LONG_BINGET'):
            depths.append(memo.get(int(arg), 0))
            continue
        if name == 'GLOBAL' and arg.endswith(' bytearray'):
            raise pickle.UnpicklingError('bytearray is not allowed')
        before = op.stack_before
        if pickletools.markobject in before:
            cut = marks.pop() if marks else 0
            cut = max(0, cut - before.index(pickletools.markobject))
        else:
            cut = max(0, len(depths) - len(before))
        depth = 0
        if name.startswith('TUPLE'):
            depth = 1 + max(depths[cut:], default=0)
            if depth > DEEPEST:
                raise pickle.UnpicklingError(f'tuples in tuples, more than {DEEPEST} deep')
        elif name == 'DUP':
            depth = depths[-1] if depths else 0
        del depths[cut:]
        depths.extend([depth] * len(op.stack_after))


#: what the pickles of tensors and plain values ask for, beside :data:`REPLACEMENTS`
ALLOWED = {
    ('torch._utils', '_rebuild_tensor_v2'),
    ('torch', 'device'),
    ('torch', 'Size'),
    ('collections', 'OrderedDict'),
    ('_codecs', 'encode'),
}


class Unpickler(pickle.Unpickler):
    """Reads tensors, arrays and plain values, and calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ('torch.storage', '_load_from_bytes'):
            return lambda content: torch.load(io.BytesIO(content), map_location='cpu', weights_only=True)
        if f'{module}.{name}' in REPLACEMENTS:
            return REPLACEMENTS[f'{module}.{name}']
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f'it asks for {module}.{name}')
        return super().find_class(module, name)


def read_pickle(path: Path) -> Any:
    """What a pickled file holds, of tensors, arrays and plain values; a damaged or foreign one can raise anything."""
    with open(path, 'rb') as file:
        check_depth(file, path.stat().st_size)
        file.seek(0)
        return restore(Unpickler(file).load())
