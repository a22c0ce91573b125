"""A head that the box and the mask branch share: ResNet's last stage on the regions, as in the C4 models."""

from torch import Tensor

from mmdet.mmdetection.arguments import accepts
from mmdet.models.backbones.resnet import ResidualStages
from mmdet.registry import MODELS


@MODELS.register_module()
@accepts(dcn=None, pretrained=None)
class ResLayer(ResidualStages):
    """Computes one stage of ResNet on regions' features, for both heads (He et al., CVPR 2016, appendix A).

    Features (R, C, S, S) become (R, C', S / stride, S / stride), sides rounded up; for ``stage=3`` of depth 50 C is
    1024 and C' 2048. Parameters are named as in the whole ResNet, ``layer4.*`` for ``stage=3``, whose pretrained
    weights it takes.

    Args:
        depth: of the ResNet: 18, 34, 50, 101 or 152.
        stage: 1 to 3; 3 follows a backbone of three stages.
        stride, dilation, style, norm_cfg, norm_eval, with_cp, init_cfg: as in :class:`ResNet`.

    Raises:
        ValueError: a depth, stage or style there is not.
        FileNotFoundError: pretrained weights that cannot be had.

    Example:
        In the config of a C4 model::

            shared_head=dict(type='ResLayer', depth=50, stage=3, stride=2, style='caffe')
    """

    def __init__(
        self,
        depth: int,
        stage: int = 3,
        stride: int = 2,
        dilation: int = 1,
        style: str = 'pytorch',
        norm_cfg: dict = dict(type='BN', requires_grad=True),
        norm_eval: bool = True,
        with_cp: bool = False,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(depth, style, norm_eval, init_cfg)
        if stage not in (1, 2, 3):
            raise ValueError(f'ResLayer: stage must be 1, 2 or 3, got {stage!r}')
        channels = 64 * 2**stage
        self.layer_name = f'layer{stage + 1}'
        block, numbers = self.arch_settings[depth]
        in_channels = channels // 2 * block.expansion
        self.add_module(
            self.layer_name,
            self.make_res_layer(
                block=block,
                inplanes=in_channels,
                planes=channels,
                num_blocks=numbers[stage],
                stride=stride,
                norm_cfg=norm_cfg,
                dilation=dilation,
                style=style,
                with_cp=with_cp,
            ),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Compute (R, C', S / stride, S / stride) from features (R, C, S, S)."""
        return getattr(self, self.layer_name)(x)
