"""The documents' links and file names are right, the public names are there, and the pages are built."""

import importlib
import re
from pathlib import Path

import pytest
from documents import DOCUMENTS, ROOT, read


@pytest.mark.parametrize('page', DOCUMENTS)
def test_links(page):
    for link in DOCUMENTS[page].links:
        target, _, anchor = link.partition('#')
        path = (ROOT / page).parent / target if target else ROOT / page
        assert path.exists(), f'{page}: {link}: no such file'
        if anchor:
            other = read(str(path.resolve().relative_to(ROOT)))
            assert anchor in other.anchors, f'{page}: {link}: no such heading; there are {sorted(other.anchors)}'


@pytest.mark.parametrize('page', DOCUMENTS)
def test_files_that_the_text_names(page):
    """Paths in a line's code; those with '...', '*' or a word in capitals stand for others."""
    made = {'docs/_build', 'docs/_build/results', 'docs/_build/docs/index.html'}  # by the build of the pages
    shown = made | {
        match.group(1)
        for block in DOCUMENTS[page].blocks
        for match in [re.match(r'# (\S+\.py)\n', block.text)]
        if match
    }
    for code in DOCUMENTS[page].codes:
        for path in re.findall(r'(?:^|(?<=[ `]))(?:configs|docs|mmdet|tests|tools|demo)/[\w./+-]+', code):
            assert (ROOT / path).exists() or path in shown or code[len(path) :][:1] in tuple('{*'), f'{page}: {path}'


def test_every_page_of_docs_is_in_the_index():
    index = {Path(link).name for link in DOCUMENTS['docs/index.md'].links}
    assert {Path(page).name for page in DOCUMENTS if page.startswith('docs/')} - {'index.md'} <= index


def test_every_tool_is_on_its_page():
    text = (ROOT / 'docs/tools.md').read_text()
    tools = [
        path.relative_to(ROOT)
        for folder in ('tools', 'demo')
        for path in (ROOT / folder).rglob('*.*')
        if path.suffix in ('.py', '.sh')
    ]
    assert [str(tool) for tool in tools if str(tool) not in text] == []


def test_public_names():
    names = re.findall(r'^\| `(mmdet\.[\w.]+)` \|', (ROOT / 'docs/api.md').read_text(), re.M)
    for name in names:
        module, _, attribute = name.rpartition('.')
        value = getattr(importlib.import_module(module), attribute)
        assert value.__doc__, name
    for module in ('mmdet.apis', 'mmdet.ops.norm'):
        public = {f'{module}.{name}' for name in importlib.import_module(module).__all__ if name != 'NORM_TYPES'}
        assert public <= set(names)


@pytest.mark.filterwarnings('ignore::DeprecationWarning', 'ignore::PendingDeprecationWarning')  # Sphinx's own
def test_pages_are_built_without_a_warning(tmp_path, capfd):
    """As `python -m sphinx -W -c docs . docs/_build` does; no page needs anything from the network."""
    pytest.importorskip('furo', reason="the documentation's builder is not installed: pip install -e '.[docs]'")
    from sphinx.cmd.build import build_main

    assert (
        build_main(
            [
                '-q',
                '-W',
                '--keep-going',
                '-c',
                str(ROOT / 'docs'),
                '-d',
                str(tmp_path / 'doctrees'),
                str(ROOT),
                str(tmp_path / 'html'),
            ]
        )
        == 0
    ), capfd.readouterr().err
    for page in DOCUMENTS:
        html = (tmp_path / 'html' / page).with_suffix('.html').read_text()
        assert '<h1>' in html and not re.findall(r'(?:src|<link[^>]*href)="https?://[^"]*"', html), page
    signatures = (tmp_path / 'html/docs/api.html').read_text()
    assert 'id="mmdet.ops.norm.CBN"' in signatures and 'compensation' in signatures
