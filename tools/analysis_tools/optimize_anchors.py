"""mmdet analyze anchors, by the name that mmdetection gives it."""

import sys

from mmdet.analysis.anchors import main
from mmdet.run.ending import run_main

if __name__ == '__main__':
    sys.exit(run_main(main))
