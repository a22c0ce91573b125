"""Types by the names that parts written for mmdetection 3.x use."""

from typing import Optional, Union

from mmengine.config import ConfigDict
from mmengine.structures import InstanceData

ConfigType = Union[ConfigDict, dict]
OptConfigType = Optional[ConfigType]
MultiConfig = Union[ConfigType, list[ConfigType]]
OptMultiConfig = Optional[MultiConfig]
InstanceList = list[InstanceData]
OptInstanceList = Optional[InstanceList]
