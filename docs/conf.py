"""Sphinx's settings: python -m sphinx -W -c docs . docs/_build.

The source folder is the repository's root, so that the documents' links to each other hold, README and configs among
them. The pages are plain Markdown, as on a code host; what only the built pages have (navigation, signatures) is added
here.
"""

import importlib
import inspect
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
FOLDERS = ('configs', 'demo', 'docs')  # with pages, besides those at the root

project = 'mmdet'
release = re.search(r"'(.+)'", (ROOT / 'mmdet' / 'version.py').read_text()).group(1)
extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon']
root_doc = 'docs/index'
include_patterns = ['*.md', *(f'{folder}/**.md' for folder in FOLDERS)]
exclude_patterns = ['docs/_build'] + [
    path.name for path in ROOT.iterdir() if path.is_dir() and path.name not in FOLDERS
]
suppress_warnings = ['toc.not_included']  # pages that only other pages link to
html_theme = 'furo'
html_title = f'mmdet {release}'
html_show_copyright = False
html_copy_source = False
html_static_path = ['static']
html_css_files = ['pages.css']
myst_heading_anchors = 4
autodoc_typehints = 'none'
autodoc_member_order = 'bysource'


def directive(name: str) -> str:
    """The directive that documents a dotted name."""
    module, _, attribute = name.rpartition('.')
    value = getattr(importlib.import_module(module), attribute)
    if inspect.isclass(value):
        return f'.. autoclass:: {name}\n   :members:\n'
    return f'.. {"autofunction" if inspect.isfunction(value) else "autodata"}:: {name}\n'


def add_to_page(app, docname: str, source: list[str]) -> None:
    """Navigation, from the index's own lists of links; signatures, below the tables of public names."""
    if docname == root_doc:
        for section in re.split(r'^## ', source[0], flags=re.M)[1:]:
            caption, links = section.splitlines()[0], re.findall(r'\[([^\]]+)\]\(([^)#]+)\.md\)', section)
            pages = [(title, (ROOT / 'docs' / link).resolve().relative_to(ROOT)) for title, link in links]
            source[0] += '\n'.join(
                [
                    '\n```{toctree}',
                    ':hidden:',
                    f':caption: {caption}',
                    '',
                    *(f'{title} </{page}>' for title, page in pages),
                    '```\n',
                ]
            )
    if docname == 'docs/api':
        names = re.findall(r'^\| `(mmdet\.[\w.]+)` \|', source[0], re.M)
        source[0] += '\n'.join(['\n## Signatures\n', '```{eval-rst}', *map(directive, names), '```\n'])


def keep_formulas_as_text(app, what, name, obj, options, lines: list[str]) -> None:
    """Set formulas need a script from the network."""
    for i, line in enumerate(lines):
        if line.startswith('.. math:: '):
            lines[i : i + 1] = ['::', '', line.replace('.. math::', '   ', 1)]


def setup(app) -> None:
    app.connect('autodoc-process-docstring', keep_formulas_as_text)
    app.connect('source-read', add_to_page)
