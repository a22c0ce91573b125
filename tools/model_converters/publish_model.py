"""Make a checkpoint ready to hand out: python tools/model_converters/publish_model.py IN OUT."""
import argparse
import hashlib
import io
import sys

import torch

from mmdet.utils.atomic_io import write_atomic
from mmdet.utils.checkpoint import load_checkpoint_file
from mmdet.utils.cli import run_main


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description='Keep the weights of a checkpoint and leave out what only a resumed run needs')
    parser.add_argument('in_file', help='checkpoint file')
    parser.add_argument('out_file', help='OUT or OUT.pth; written is OUT-XXXXXXXX.pth, X the start of its sha256')
    parser.add_argument('--save-keys', nargs='+', default=['meta', 'state_dict'], metavar='KEY',
                        help='what is kept (default: meta state_dict)')
    parser.add_argument('--trust-checkpoint', action='store_true',
                        help='read checkpoints that may run code; only for files whose origin you know')
    return parser.parse_args(argv)


def publish(in_file, out_file, save_keys, trust=False):
    """Write ``in_file``'s values of ``save_keys``; returns the path, which names the start of its sha256.

    Raises:
        FileNotFoundError, ValueError: no such file; no checkpoint; other objects in it, which could run any code.
        KeyError: a key that the checkpoint does not have.
    """
    checkpoint = load_checkpoint_file(in_file, trust=trust)
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
    print(f'published: {publish(args.in_file, args.out_file, args.save_keys, args.trust_checkpoint)}')


if __name__ == '__main__':
    sys.exit(run_main(main))
