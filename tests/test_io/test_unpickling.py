"""Pickles that are made to crash what reads them: refused; NumPy's own come back as they were."""

import io
import pickle
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from mmdet.io.checkpoint import load_checkpoint_file
from mmdet.io.unpickling import Unpickler, check_depth, restore

ARRAYS = [
    np.arange(6.0).reshape(2, 3),
    np.asfortranarray(np.arange(6, dtype='>i4').reshape(2, 3)),
    np.zeros((0, 4)),
    np.array(3.5),
    np.array(['ab', 'c']),
    np.array([b'ab']),
    np.array([True, False]),
    np.arange(3) * 1j,
    np.float32(0.25),
    np.int64(-3),
    np.bool_(True),
    np.str_('x'),
    np.arange(10)[::3],
]


@pytest.mark.parametrize('array', ARRAYS, ids=repr)
def test_arrays_come_back(array, tmp_path):
    value = dict(a=array, b=[(1, array)], c=HistoryBuffer([1.0, 2.0], [1, 1]))
    torch.save(value, tmp_path / 'x.pth')
    found = [load_checkpoint_file(str(tmp_path / 'x.pth'))]
    found += [restore(Unpickler(io.BytesIO(pickle.dumps(array, protocol))).load()) for protocol in range(2, 6)]
    for one in (found[0]['a'], found[0]['b'][0][1], *found[1:]):
        assert type(one) is type(array) and one.dtype == array.dtype and np.array_equal(one, array)
    assert found[0]['c']._log_history.tolist() == [1, 2] and found[0]['c'].mean() == 1.5
    check_depth(pickle.dumps(value['b']), 10**6)


def name(module, attribute):
    return b'c' + f'{module}\n{attribute}\n'.encode()


def text(value):
    return b'X' + struct.pack('<I', len(value)) + value.encode()


NUMBER = b'K\x01'
POINTERS = (
    name('collections', 'OrderedDict')
    + name('numpy', 'ndarray')
    + NUMBER
    + b'\x85'
    + text('O')
    + text('AAAAAAAA')
    + b'\x87R\x85R'
)
FORGED = (
    name('numpy', 'dtype')
    + text('i8')
    + b'\x89\x88\x87R(K\x03'
    + text('<')
    + b'NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x3ftb'
)
HOSTILE = {
    'an array of pointers': POINTERS,
    'a forged dtype': FORGED,
    'an array of objects': name('numpy.core.multiarray', '_reconstruct')
    + name('numpy', 'ndarray')
    + b'K\x00\x85'
    + text('b')
    + b'\x87R(K\x01K\x01\x85'
    + name('numpy', 'dtype')
    + text('O8')
    + b'\x89\x88\x87R\x89]Natb',
    'tuples in tuples': b'}N' + b'\x85' * 10**6 + b'Ns',
    'tuples in tuples by the memo': b'}Nq\x00' + b'h\x00N\x86q\x00' * 10**5 + b'h\x00Ns',
    'a large bytearray': name('builtins', 'bytearray') + b'J\xff\xff\xff\x7f\x85R',
    'a large memo': b'Nr' + struct.pack('<I', 200000000),
}
READ = """
import resource, sys
from mmdet.analysis.confusion import read_samples
from mmdet.io.checkpoint import load_checkpoint_file
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
for path in sys.argv[1:]:
    print(path, flush=True)
    try:
        print('READ', read_samples(path, 2) if path.endswith('.pkl') else load_checkpoint_file(path))
    except ValueError as error:
        assert path in str(error), error
"""


def test_hostile(tmp_path):
    paths = [path for what, value in HOSTILE.items() for path in write(tmp_path / what, value)]
    done = subprocess.run([sys.executable, '-c', READ, *map(str, paths)], capture_output=True, text=True)
    assert done.returncode == 0 and 'READ' not in done.stdout, done.stdout + done.stderr[-2000:]
    assert done.stdout.splitlines() == [str(path) for path in paths]


def write(tmp_path, value):
    """A checkpoint of either format, and predictions, with a pickled value."""
    tmp_path.mkdir()
    torch.save(dict(x=1), tmp_path / 'x.pth')
    data = b'\x80\x02}' + text('x') + value + b's.'
    with zipfile.ZipFile(tmp_path / 'x.pth') as archive:
        parts = {entry: archive.read(entry) for entry in archive.namelist()}
    with zipfile.ZipFile(tmp_path / 'x.pth', 'w') as archive:
        for entry, content in parts.items():
            archive.writestr(entry, data if entry.endswith('/data.pkl') else content)
    torch.save(dict(x=1), tmp_path / 'old.pth', _use_new_zipfile_serialization=False)
    old = (tmp_path / 'old.pth').read_bytes()
    start = old.index(pickle.dumps(dict(x=1), 2)[:4], 80)
    (tmp_path / 'old.pth').write_bytes(old[:start] + data + b'\x80\x02].')
    (tmp_path / 'x.pkl').write_bytes(data)
    return [tmp_path / name for name in ('x.pth', 'old.pth', 'x.pkl')]
