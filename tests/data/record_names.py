"""Record the public names of mmdetection's modules, for mmdet/mmdetection/names.json; run where it is installed.

usage: python tests/data/record_names.py OUT
"""

import importlib
import inspect
import json
import pkgutil
import sys
import warnings

import mmdet

warnings.simplefilter('ignore')
found = {}
for info in pkgutil.walk_packages(mmdet.__path__, 'mmdet.'):
    if '.mim' in info.name or info.name.endswith('__main__'):
        continue
    try:
        module = importlib.import_module(info.name)
    except Exception as error:  # what needs a package that is not installed
        print(f'left out: {info.name} ({type(error).__name__}: {error})')
        continue
    exported = getattr(module, '__all__', ())
    own = [
        name
        for name, value in vars(module).items()
        if not name.startswith('_')
        and not inspect.ismodule(value)
        and (name in exported or getattr(value, '__module__', None) == info.name and callable(value))
        and type(value).__name__ != 'TypeVar'
    ]
    if own:
        found[info.name] = sorted(own)
with open(sys.argv[1], 'w') as file:
    file.write('{\n' + ',\n'.join(f'{json.dumps(key)}: {json.dumps(found[key])}' for key in sorted(found)) + '\n}\n')
print(f'{len(found)} modules, {sum(map(len, found.values()))} names')
