"""Print a config with its bases and options merged.

mmdet config CONFIG
"""

from mmdet.config import load_config
from mmdet.options import add_config, make_parser


def main(argv: list[str] | None = None) -> None:
    parser = make_parser(__doc__)
    add_config(parser)
    args = parser.parse_args(argv)
    print(load_config(args.config, args.cfg_options).pretty_text)
