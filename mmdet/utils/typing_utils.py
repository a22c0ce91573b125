"""Types by the names that parts written for mmdetection 3.x use."""

from typing import TypeAlias

from mmengine.config import ConfigDict
from mmengine.structures import InstanceData

ConfigType: TypeAlias = ConfigDict | dict
OptConfigType = ConfigType | None
MultiConfig = ConfigType | list[ConfigType]
OptMultiConfig = MultiConfig | None
InstanceList = list[InstanceData]
OptInstanceList = InstanceList | None
