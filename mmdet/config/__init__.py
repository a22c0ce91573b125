"""Configs: found, read, merged with the command line's options, and checked before anything is built."""

from .check import build_model, check_config, check_model_config
from .load import inner_dataset, load_config, step_name
from .names import config_names, find_config
from .saved import no_imports, saved_config

__all__ = [
    'build_model',
    'check_config',
    'check_model_config',
    'config_names',
    'find_config',
    'inner_dataset',
    'load_config',
    'step_name',
    'no_imports',
    'saved_config',
]
