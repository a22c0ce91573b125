"""The Markdown files of the repository: their code blocks, commands, links and headings, for the tests."""

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ('configs', 'demo', 'docs')
PROGRAMS = r'python\S*|(\.venv/bin/)?mmdet|\./\S+|tools/\S+|pip|pytest|source|ln|curl|apt-get|tensorboard|git|mkdir'
SHELL = re.compile(rf'(\w+=\S+ )*({PROGRAMS}) ')


@dataclass
class Block:
    """A code block: ``page`` (path from the repository's root), its first line's number, language and text."""

    page: str
    line: int
    language: str
    text: str

    @property
    def first_line(self) -> str:
        return self.text.splitlines()[0].strip()

    @property
    def place(self) -> str:
        return f'{self.page}:{self.line}'


@dataclass
class Document:
    """What a Markdown file holds; ``links`` without those to the web, ``codes`` the inline code."""

    page: str
    blocks: list[Block] = field(default_factory=list)
    codes: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)
    headings: list[str] = field(default_factory=list)


def pages() -> list[str]:
    """Every Markdown file at the root and in :data:`FOLDERS`."""
    found = list(ROOT.glob('*.md')) + [path for folder in FOLDERS for path in (ROOT / folder).rglob('*.md')]
    return sorted(str(path.relative_to(ROOT)) for path in found if '_build' not in path.parts)


def slug(heading: str) -> str:
    """The anchor that code hosts give a heading."""
    return re.sub(r'[^\w\- ]', '', heading.strip().lower()).replace(' ', '-')


def read(page: str) -> Document:
    """Parse a file, given by its path from the root."""
    document = Document(page)
    tokens = MarkdownIt('commonmark').enable('table').parse((ROOT / page).read_text())
    for i, token in enumerate(tokens):
        if token.type in ('fence', 'code_block'):
            start = token.map[0] + 1 + (token.type == 'fence')
            document.blocks.append(Block(page, start, _language(token), token.content))
        elif token.type == 'inline':
            _inline(token, document)
            if tokens[i - 1].type == 'heading_open':
                text = ''.join(child.content for child in token.children)
                document.headings.append(text)
                document.anchors.add(slug(text))
    return document


def _inline(token: Token, document: Document) -> None:
    for child in token.children:
        if child.type == 'code_inline':
            document.codes.append(child.content)
        target = child.attrGet('href') if child.type == 'link_open' else None
        target = child.attrGet('src') if child.type == 'image' else target
        if target and '://' not in target:
            document.links.append(target)


def _language(token: Token) -> str:
    """A fence's own word; an indented block is what it looks like."""
    if token.type == 'fence':
        return {'bash': 'shell', 'sh': 'shell', 'console': 'shell'}.get(token.info, token.info)
    if re.match(r'(from|import) |_base_ =', token.content):
        return 'python'
    return 'shell' if SHELL.match(token.content.lstrip().split('\n')[0] + ' ') else 'text'


def commands(text: str) -> list[list[str]]:
    """The commands of a shell block as lists of words, without comments and the variables set in front.

    Of what a command's usage shows, ``[--option X]`` counts as given, ``[words]`` and ``...`` as left out.
    """
    found, words = [], []
    for line in re.sub(r'\\\n\s*', ' ', text).splitlines():
        line = re.sub(r' \[[a-z][^]=]*\]', '', line).replace('--cfg-options ...', '--cfg-options KEY=VALUE')
        lexer = shlex.shlex(line, posix=True, punctuation_chars=';&|')
        lexer.whitespace_split = True
        for word in [*lexer, ';']:
            if set(word) <= set(';&|'):
                found += [words] if words else []
                words = []
            elif words or not re.match(r'\w+=', word):
                word = _unbracketed(word)
                words += [word] if word else []
    return found


def _unbracketed(word: str) -> str:
    word = word.removeprefix('[')
    while word.count(']') > word.count('['):
        word = word.removesuffix(']')
    return '' if word == '...' else word


def is_config(block: Block) -> bool:
    return block.language == 'python' and '_base_ =' in block.text


def config_path(block: Block) -> str:
    """Where a config of a document lies: as its first line says, or in the first folder that has its bases."""
    said = re.match(r'# (configs/\S+\.py)', block.text)
    if said:
        return said.group(1)
    bases = re.findall(r"'([^']+\.py)'", re.search(r'_base_ = (\[.*?\]|.*)', block.text, re.S).group(1))
    folder = next(
        (
            folder
            for folder in sorted((ROOT / 'configs').iterdir())
            if folder.is_dir()
            and all(re.match('/path/to/mmdetection/|mmdet::', base) or (folder / base).is_file() for base in bases)
        ),
        None,
    )
    assert folder, f'{block.place}: no folder of configs has {bases}'
    return f'configs/{folder.name}/{re.sub("[^a-z0-9]", "_", block.place.lower())}.py'


DOCUMENTS = {page: read(page) for page in pages()}
BLOCKS = [block for document in DOCUMENTS.values() for block in document.blocks]
