"""mmdet export."""

import sys

from mmdet.export.command import main
from mmdet.run.ending import run_main

if __name__ == '__main__':
    sys.exit(run_main(main))
