"""Which font has which letter: Matplotlib's DejaVu Sans, and for what it lacks the system's."""

import logging
import re
import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from mmengine.logging import print_log

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: in names of font files: what is taken last
STYLES = re.compile('black|bold|condensed|heavy|italic|light|medium|mono|oblique|serif|thin')
#: fonts of boxes and of nothing, that claim to have every letter
EMPTY = re.compile('lastresort|blank')
#: letters by the beginnings of their names in Unicode, and the Debian package of a font that has them
PACKAGES = {
    'CJK|HIRAGANA|KATAKANA|HANGUL|BOPOMOFO|IDEOGRAPHIC|FULLWIDTH|HALFWIDTH': 'fonts-noto-cjk',
    '': 'fonts-noto-core',
}
#: categories of letters that are not seen: controls, joiners, halves of letters, white space
UNSEEN = ('Cc', 'Cf', 'Cs', 'Zl', 'Zp', 'Zs')

#: the file of the font for each letter that was asked for, None where no font has it
_found: dict[str, str | None] = {}


@cache
def base_font() -> str:
    """Return the path of DejaVu Sans; Pillow's and OpenCV's own fonts have few letters beyond ASCII."""
    import matplotlib  # slow to import

    return str(Path(matplotlib.get_data_path(), 'fonts', 'ttf', 'DejaVuSans.ttf'))


def find_fonts(text: str) -> None:
    """Look for the fonts of a text's letters; where there are none warn, once for each letter."""
    unknown = {letter for letter in set(text) - set(_found) if unicodedata.category(letter) not in UNSEEN}
    for path in _paths() if unknown else ():
        there = _letters(path, unknown)
        _found.update(dict.fromkeys(there, path))
        unknown -= there
        if not unknown:
            return
    if unknown:
        _found.update(dict.fromkeys(unknown))
        _warn(sorted(unknown))


def _paths() -> Iterator[str]:
    from matplotlib import font_manager

    yield base_font()
    # not font_manager's list, which is made once and kept on the disk
    files = (path for path in font_manager.findSystemFonts() if not EMPTY.search(Path(path).name.lower()))
    yield from sorted(files, key=lambda path: (len(STYLES.findall(Path(path).name.lower())), path))


def _letters(path: str, letters: set[str]) -> set[str]:
    """Those that a font has as outlines."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(path)
    except Exception:  # of a broken file anything
        return set()
    return {letter for letter in letters if font.get_char_index(ord(letter))} if font.scalable else set()


def _warn(letters: list[str]) -> None:
    names = [unicodedata.name(letter, '') for letter in letters]
    packages = {next(pack for start, pack in PACKAGES.items() if re.match(start, name)) for name in names if name}
    shown = [
        f'{letter} (U+{ord(letter):04X})' if name else f'U+{ord(letter):04X}' for letter, name in zip(letters, names)
    ]
    print_log(
        f'no font here has {", ".join(shown[:10])}'
        + (f' and {len(shown) - 10} more letters' if len(shown) > 10 else '')
        + ', which will be squares in pictures'
        + (f'; install one that does, in Debian and Ubuntu {" and ".join(sorted(packages))}' if packages else ''),
        'current',
        logging.WARNING,
    )


def split(text: str) -> list[tuple[str, str]]:
    """Split a text into parts that are drawn in one font each.

    Returns:
        The font's path and the part; white space and control characters are spaces.
    """
    find_fonts(text)
    parts: list[tuple[str, str]] = []
    for letter in text:
        unseen = unicodedata.category(letter) in UNSEEN
        path = parts[-1][0] if unseen and parts else _found.get(letter) or base_font()
        if unseen and unicodedata.category(letter) != 'Cf':
            letter = ' '  # Pillow would begin new lines, and not know halves
        if parts and parts[-1][0] == path:
            letter = parts.pop()[1] + letter
        parts.append((path, letter))
    return parts


@contextmanager
def fonts_for(figure: 'Figure') -> Iterator[None]:
    """Give the texts of a figure the fonts that have their letters, while it is drawn."""
    from matplotlib import font_manager
    from matplotlib.text import Text

    texts = [text for text in figure.findobj(Text) if text.get_text()]
    letters = ''.join(text.get_text() for text in texts)
    find_fonts(letters)
    families = []
    for path in dict.fromkeys(_found.get(letter) for letter in letters):
        if path and path != base_font():
            font_manager.fontManager.addfont(path)
            families.append(next(font.name for font in font_manager.fontManager.ttflist if font.fname == path))
    for text in texts if families else ():
        text.set_fontfamily([*text.get_fontfamily(), *families])
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', r'Glyph \d+')  # find_fonts has said it
        yield
