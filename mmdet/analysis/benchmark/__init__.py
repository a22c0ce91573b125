"""How fast this package is beside others, from image file to AP, in one run.

    mmdet benchmark [--device cuda] [--peers torchvision mmdet --peer-python PATH] [--only train infer] [--out FILE]

Every detector works in a process of its own: torchvision's in this interpreter, mmdetection 3.x in that of
--peer-python, an environment where it is installed. They take turns, so that what else the machine does hits all of
them; a ratio is the median of the rounds' ratios to the faster peer, with the least and the greatest. Run it on a quiet
machine; all of it takes about half an hour on two cores.
"""

from .command import main

__all__ = ['main']
