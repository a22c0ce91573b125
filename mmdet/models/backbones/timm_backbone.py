"""Any convolutional network of timm (Wightman, github.com/huggingface/pytorch-image-models) as a backbone."""

from collections.abc import Sequence

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmdet.io.checkpoint import check_state_dict, get_weights, read_checkpoint
from mmdet.ops.norm import convert_norm
from mmdet.registry import MODELS
from mmdet.words import nearest


@MODELS.register_module()
class TIMMBackbone(BaseModule):
    """Computes feature maps with any convolutional network of timm (github.com/huggingface/pytorch-image-models).

    Images (N, in_channels, H, W) become a tuple of maps, one for each of ``out_indices``; strides and channels are the
    network's. Parameters are named ``timm_model.*``, behind it as in timm.

    Args:
        model_name: see ``timm.list_models()``.
        features_only: maps instead of class scores; has to be True.
        pretrained: take timm's own weights, which it downloads.
        checkpoint_path: take weights of a file or URL; short for ``init_cfg=dict(type='Pretrained', checkpoint=...)``.
        in_channels: of the images.
        out_indices: of timm's levels, mostly those of stride 2, 4, 8, 16 and 32, which are returned.
        frozen_stages: everything that the map of this level, one of ``out_indices``, depends on is not trained (its
            norms in evaluation mode); -1: nothing is frozen.
        norm_cfg: what the batch norms become, see :func:`.convert_norm`; None: they stay. ``requires_grad=False``
            freezes weight and bias.
        norm_eval: all batch norms, CBN among them, use running statistics in training too.
        init_cfg: ``dict(type='Pretrained', checkpoint=...)``: names as in timm; where no name fits, but number, order
            and shapes are those of timm's whole model, as in ports of TensorFlow's weights, the order.
        kwargs: further arguments of ``timm.create_model``.

    Raises:
        ImportError: timm is not installed.
        ValueError: a model or level there is not; weights of another model.

    Example:
        In a config, with the neck that fits it::

            backbone=dict(type='TIMMBackbone', model_name='resnet18', pretrained=True, norm_cfg=dict(type='CBN')),
            neck=dict(type='FPN', in_channels=[64, 128, 256, 512], out_channels=256, num_outs=5)
    """

    _is_init: bool

    def __init__(
        self,
        model_name: str,
        features_only: bool = True,
        pretrained: bool = False,
        checkpoint_path: str = '',
        in_channels: int = 3,
        out_indices: Sequence[int] = (1, 2, 3, 4),
        frozen_stages: int = -1,
        norm_cfg: dict | None = None,
        norm_eval: bool = False,
        init_cfg: dict | None = None,
        **kwargs,
    ) -> None:
        if checkpoint_path:
            init_cfg = dict(type='Pretrained', checkpoint=checkpoint_path)
        super().__init__(init_cfg)
        timm = _import_timm()
        if not features_only:
            raise ValueError('TIMMBackbone: features_only must be True, got False: a detector needs maps')
        if not timm.is_model(model_name):
            raise ValueError(
                f'TIMMBackbone: model_name={model_name!r}: timm {timm.__version__} has no such model'
                f'{nearest(str(model_name), timm.list_models())}'
            )
        if frozen_stages != -1 and frozen_stages not in out_indices:
            raise ValueError(
                f'TIMMBackbone: frozen_stages={frozen_stages} must be one of out_indices={tuple(out_indices)}, or -1'
            )
        self.model_name, self.in_channels, self.norm_eval = model_name, in_channels, norm_eval
        try:
            self.timm_model = timm.create_model(
                model_name,
                pretrained=pretrained,
                features_only=True,
                in_chans=in_channels,
                out_indices=tuple(out_indices),
                **kwargs,
            )
        except (AssertionError, IndexError) as error:
            raise ValueError(
                f'TIMMBackbone: {model_name} has no levels out_indices={tuple(out_indices)}: {error}'
            ) from None
        if norm_cfg is not None:
            convert_norm(self.timm_model, norm_cfg, self._example())
            for norm in self._norms():
                norm.requires_grad_(norm_cfg.get('requires_grad', True))
        self._frozen = [] if frozen_stages == -1 else self._before(tuple(out_indices).index(frozen_stages))
        self._freeze_stages()

    def _example(self) -> Tensor:
        config = getattr(self.timm_model, 'default_cfg', None) or getattr(self.timm_model, 'pretrained_cfg', None) or {}
        size = config['input_size'][1:] if config.get('fixed_input_size') else (64, 64)
        return torch.zeros(1, self.in_channels, *size)

    def _norms(self) -> list[nn.Module]:
        return [module for module in self.modules() if isinstance(module, (_BatchNorm, nn.GroupNorm))]

    def _before(self, index: int) -> list[nn.Module]:
        """The modules with parameters that an output depends on."""
        parameters = list(self.timm_model.parameters())
        needs = [parameter.requires_grad for parameter in parameters]
        super().train(False)
        with torch.enable_grad():
            output = self.timm_model.requires_grad_()(self._example())[index]
            grads = torch.autograd.grad(output.sum(), parameters, allow_unused=True)
        for parameter, need in zip(parameters, needs):
            parameter.requires_grad_(need)
        super().train()
        used = {parameter for parameter, grad in zip(parameters, grads) if grad is not None}
        return [module for module in self.timm_model.modules() if used & set(module.parameters(recurse=False))]

    def _freeze_stages(self) -> None:
        for module in self._frozen:
            module.training = False
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)

    def init_weights(self) -> None:
        """Load the weights of ``init_cfg``; without one timm has initialized the model."""
        if self._is_init or not self.init_cfg:
            return
        path = self.init_cfg['checkpoint']
        weights = get_weights(read_checkpoint(path), path)
        own = self.timm_model.state_dict()
        if not own.keys() & weights.keys():
            with torch.device('meta'):
                whole = _import_timm().create_model(self.model_name, in_chans=self.in_channels).state_dict()
            if [value.shape for value in whole.values()] == [value.shape for value in weights.values()]:
                weights = dict(zip(whole, weights.values()))
        check_state_dict(self.timm_model, weights, path, partly=True)
        self.timm_model.load_state_dict(weights, strict=False)
        self._is_init = True

    def train(self, mode: bool = True) -> 'TIMMBackbone':
        """Set training mode; what is frozen, and with ``norm_eval`` all norms, stay in evaluation mode."""
        super().train(mode)
        self._freeze_stages()
        if mode and self.norm_eval:
            for norm in self._norms():
                norm.eval()
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the feature maps.

        Args:
            x: normalized images (N, in_channels, H, W).

        Returns:
            A map (N, C_i, H_i, W_i) for each of ``out_indices``, in their order.
        """
        return tuple(self.timm_model(x))


def _import_timm():
    try:
        import timm
    except ImportError:
        raise ImportError('TIMMBackbone needs timm: pip install timm') from None
    return timm
