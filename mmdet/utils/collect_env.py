"""What a run is made with."""


def collect_env() -> dict:
    """Versions of Python, PyTorch, the libraries and mmdet, and the GPUs."""
    from mmengine.utils import get_git_hash
    from mmengine.utils.dl_utils import collect_env as collect

    from mmdet.version import __version__

    return dict(collect(), MMDetection=f'{__version__}+{get_git_hash()[:7]}')
