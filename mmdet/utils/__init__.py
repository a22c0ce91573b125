"""Set-up of a run, checks before anything is written, and what users' scripts import."""

from .collect_env import collect_env
from .modules import get_test_pipeline_cfg, register_all_modules, setup_cache_size_limit_of_dynamo
from .typing_utils import ConfigType, InstanceList, MultiConfig, OptConfigType, OptInstanceList, OptMultiConfig

__all__ = [
    'ConfigType',
    'InstanceList',
    'MultiConfig',
    'OptConfigType',
    'OptInstanceList',
    'OptMultiConfig',
    'collect_env',
    'get_test_pipeline_cfg',
    'register_all_modules',
    'setup_cache_size_limit_of_dynamo',
]
