"""Print the merged config: python tools/print_config.py CONFIG."""

import argparse
import sys

from mmengine.config import DictAction

from mmdet.config import load_config
from mmdet.run.ending import run_main


def main(argv=None):
    parser = argparse.ArgumentParser(description='Print the merged config')
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='settings that override the config'
    )
    args = parser.parse_args(argv)
    print(load_config(args.config, args.cfg_options).pretty_text)


if __name__ == '__main__':
    sys.exit(run_main(main))
