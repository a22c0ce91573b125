"""Record the public names of mmdetection's modules and the methods of its classes, where it is installed.

usage: python tests/data/record_names.py FOLDER

FOLDER/names.json gets the names; FOLDER/methods.json, which lists classes already, their methods. Both are in
mmdet/mmdetection.
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


def write(name, found):
    with open(f'{sys.argv[1]}/{name}.json', 'w') as file:
        lines = (f'{json.dumps(key)}: {json.dumps(found[key])}' for key in sorted(found))
        file.write('{\n' + ',\n'.join(lines) + '\n}\n')


write('names', found)
with open(f'{sys.argv[1]}/methods.json') as file:
    wanted = set(json.load(file))
methods = {}
for module, names in found.items():
    for name in wanted & set(names):
        kind = getattr(sys.modules[module], name)
        methods[name] = sorted(
            {
                method
                for base in kind.__mro__
                if base.__module__.partition('.')[0] == 'mmdet'
                for method, value in vars(base).items()
                if inspect.isfunction(value) and not method.startswith('__')
            }
        )
write('methods', methods)
print(f'{len(found)} modules, {sum(map(len, found.values()))} names; methods of {len(methods)} classes')
