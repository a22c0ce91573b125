"""Several processes without a GPU."""

from mmengine.model import MMDistributedDataParallel
from torch import nn

from mmdet.registry import MODEL_WRAPPERS


@MODEL_WRAPPERS.register_module()
class CPUDistributedDataParallel(MMDistributedDataParallel):
    """Wraps a model for training in several processes without a GPU; mmengine's wrapper, which lets our SyncBN pass.

    torch's own works on GPUs only, and DDP refuses its subclasses.
    """

    def _passing_sync_batchnorm_handle(self, module: nn.Module) -> None:
        pass
