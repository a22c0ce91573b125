"""Make a checkpoint ready to hand out: python tools/model_converters/publish_model.py IN OUT."""
import argparse
import hashlib
import io
import re
import sys
from pickle import UnpicklingError

import torch
from mmengine.runner.checkpoint import get_torch_safe_globals

from mmdet.utils.atomic_io import write_atomic
from mmdet.utils.cli import run_main
from mmdet.utils.setup import check_checkpoint_file


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description='Keep the weights of a checkpoint and leave out what only a resumed run needs')
    parser.add_argument('in_file', help='checkpoint file')
    parser.add_argument('out_file', help='OUT or OUT.pth; written is OUT-XXXXXXXX.pth, X the start of its sha256')
    parser.add_argument('--save-keys', nargs='+', default=['meta', 'state_dict'], metavar='KEY',
                        help='what is kept (default: meta state_dict)')
    return parser.parse_args(argv)


def read(path):
    """A checkpoint on the CPU; only weights, plain values and mmengine's log are unpickled.

    Raises:
        FileNotFoundError, ValueError: no such file; no checkpoint; other objects in it, which could run any code.
    """
    check_checkpoint_file(path)
    try:
        with torch.serialization.safe_globals(get_torch_safe_globals()):
            checkpoint = torch.load(path, map_location='cpu', weights_only=True)
    except UnpicklingError as error:
        found = re.search(r'GLOBAL (\S+)', str(error))
        what = f'holds {found.group(1)}' if found else str(error)
        raise ValueError(f'checkpoint {path}: {what}; expected weights, plain values and what tools/train.py '
                         'writes') from None
    except (RuntimeError, EOFError) as error:
        raise ValueError(f'checkpoint {path}: not a checkpoint, or damaged: {error}') from None
    if not isinstance(checkpoint, dict):
        raise ValueError(f'checkpoint {path}: expected a dict, found a {type(checkpoint).__name__}')
    return checkpoint


def publish(in_file, out_file, save_keys):
    """Write ``in_file``'s values of ``save_keys``; returns the path, which names the start of its sha256.

    Raises:
        FileNotFoundError, ValueError: see :func:`read`. KeyError: a key that the checkpoint does not have.
    """
    checkpoint = read(in_file)
    missing = [key for key in save_keys if key not in checkpoint]
    if missing:
        raise KeyError(f"checkpoint {in_file}: has no {', '.join(missing)} to save; it has {', '.join(checkpoint)}")
    buffer = io.BytesIO()
    torch.save({key: checkpoint[key] for key in save_keys}, buffer)
    path = f'{out_file.removesuffix(".pth")}-{hashlib.sha256(buffer.getvalue()).hexdigest()[:8]}.pth'
    write_atomic(buffer.getvalue(), path)
    return path


def main(argv=None):
    args = parse_args(argv)
    print(f'published: {publish(args.in_file, args.out_file, args.save_keys)}')


if __name__ == '__main__':
    sys.exit(run_main(main))
