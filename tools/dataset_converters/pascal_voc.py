"""mmdet convert voc, by the name that mmdetection gives it."""

import sys

from mmdet.converters.pascal_voc import main
from mmdet.run.ending import run_main

if __name__ == '__main__':
    sys.exit(run_main(main))
