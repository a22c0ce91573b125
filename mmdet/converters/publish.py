"""Make a checkpoint ready to hand out: the weights, without what only a resumed run needs.

mmdet convert publish IN OUT [--half] [--safetensors]
"""

import hashlib
import io

import torch

from mmdet.apis.hub import OWN_KEYS
from mmdet.apis.inference import find_meta
from mmdet.config import no_imports, saved_config
from mmdet.io.atomic import sealed, write_atomic
from mmdet.io.checkpoint import SAFE, get_weights, load_checkpoint_file
from mmdet.io.safetensors_file import safetensors_bytes
from mmdet.options import add_trust_checkpoint, make_parser

#: weights that stay float32 with --half: variances are as small as the features are
FULL = ('running_mean', 'running_var')


def parse_args(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument('in_file', help='checkpoint file')
    parser.add_argument('out_file', help='OUT or OUT.pth; written is OUT-XXXXXXXX.pth, X the start of its sha256')
    parser.add_argument(
        '--save-keys',
        nargs='+',
        default=['meta', 'state_dict'],
        metavar='KEY',
        help='what is kept (default: meta state_dict)',
    )
    parser.add_argument(
        '--half',
        action='store_true',
        help='weights as float16 (running statistics stay float32); of meta only the config, classes '
        'and palette. Such a file needs no config: mmdet predict IMG FILE',
    )
    parser.add_argument(
        '--safetensors',
        action='store_true',
        help='write OUT-XXXXXXXX.safetensors, which cannot hold code; of meta only the config, classes and palette',
    )
    add_trust_checkpoint(parser)
    args = parser.parse_args(argv)
    if args.safetensors and set(args.save_keys) != {'meta', 'state_dict'}:
        parser.error(f'--save-keys {" ".join(args.save_keys)}: a file of --safetensors holds meta and state_dict')
    return args


def reduce(checkpoint, in_file, half):
    """``state_dict`` and ``meta`` of a checkpoint, the smallest from which DetInferencer builds the detector.

    With ``half`` the weights are float16; a model that loads them is float32.

    Raises:
        ValueError: there is no config in the checkpoint, or a weight that float16 cannot hold.
    """
    weights = get_weights(checkpoint, in_file)
    small = {}
    for key, value in weights.items():
        narrow = half and value.is_floating_point() and not key.endswith(FULL)
        small[key] = value.half() if narrow else value.clone()
        if half and not small[key].isfinite().all():
            raise ValueError(
                f'checkpoint {in_file}: state_dict.{key} holds {value.abs().max():g}, float16 reaches to '
                '65504; publish it without --half'
            )
    cfg = saved_config(checkpoint, in_file)
    for key in OWN_KEYS:
        cfg.pop(key, None)
    with no_imports():
        meta = find_meta(cfg, checkpoint, in_file)
    return dict(meta=dict(cfg=cfg.pretty_text, dataset_meta=meta), state_dict=small)


def publish(in_file, out_file, save_keys, trust=False, half=False, safe=False):
    """Write ``in_file``'s values of ``save_keys``; returns the path, which names the start of its sha256.

    Raises:
        FileNotFoundError, ValueError: no such file; no checkpoint; other objects in it, which could run any code; see
            :func:`reduce`.
        KeyError: a key that the checkpoint does not have.
    """
    checkpoint = load_checkpoint_file(in_file, trust=trust)
    if half or safe:
        checkpoint = reduce(checkpoint, in_file, half)
    missing = [key for key in save_keys if key not in checkpoint]
    if missing:
        raise KeyError(f'checkpoint {in_file}: has no {", ".join(missing)} to save; it has {", ".join(checkpoint)}')
    if safe:
        ending, data = SAFE, safetensors_bytes(checkpoint['state_dict'], checkpoint['meta'])
    else:
        buffer = io.BytesIO()
        torch.save({key: checkpoint[key] for key in save_keys}, buffer)
        ending, data = '.pth', b''.join(sealed(buffer.getvalue()))
    path = f'{out_file.removesuffix(ending)}-{hashlib.sha256(data).hexdigest()[:8]}{ending}'
    write_atomic(data, path)
    return path


def main(argv=None):
    args = parse_args(argv)
    path = publish(args.in_file, args.out_file, args.save_keys, args.trust_checkpoint, args.half, args.safetensors)
    print(f'published: {path}')
