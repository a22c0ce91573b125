"""Class names in letters that DejaVu Sans lacks: in a font of the system that has them, or a warning."""

import warnings

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib import pyplot as plt

from mmdet.analysis.confusion import draw
from mmdet.analysis.curves import save_figure
from mmdet.visualization import draw_instances, fonts
from mmdet.visualization.labels import _font, label_size


def make_font(path, letters, height=700):
    """A font of blocks: each letter fills its width, up to ``height`` of 1000 units."""
    names = ['.notdef', *(f'u{ord(letter):X}' for letter in letters)]
    pen = TTGlyphPen(None)
    for k, corner in enumerate([(0, 0), (0, height), (1000, height), (1000, 0)]):
        pen.lineTo(corner) if k else pen.moveTo(corner)
    pen.closePath()
    builder = FontBuilder(1000)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(letter): name for letter, name in zip(letters, names[1:])})
    builder.setupGlyf(dict.fromkeys(names, pen.glyph()))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable(dict(familyName=path.stem, styleName='Regular'))
    builder.setupOS2(sTypoAscender=800, usWinAscent=800, usWinDescent=200)
    builder.setupPost()
    builder.save(str(path))
    return str(path)


@pytest.fixture
def system(monkeypatch, tmp_path):
    """The system's fonts, a list to fill, and the warnings."""
    paths, said = [], []
    monkeypatch.setattr(fonts, '_found', {})
    monkeypatch.setattr(font_manager, 'findSystemFonts', lambda: paths)
    monkeypatch.setattr(font_manager.fontManager, 'ttflist', [*font_manager.fontManager.ttflist])
    monkeypatch.setattr(fonts, 'print_log', lambda text, *args: said.append(text))
    return paths, said


def test_letters_are_drawn_in_a_font_that_has_them(system, tmp_path):
    paths, said = system
    (tmp_path / 'Broken.ttf').write_bytes(b'no font')
    paths += [str(tmp_path / 'Broken.ttf'), str(tmp_path / 'gone.otf')]
    paths += [make_font(tmp_path / 'LastResort.ttf', '细포', 100), make_font(tmp_path / 'A-BoldSerif.ttf', '细포', 200)]
    paths += [make_font(tmp_path / 'Plain.ttf', '细'), make_font(tmp_path / 'Other.ttf', '포')]
    block = _font(20).getmask('细')
    assert (block[8:20, 4:22] == 255).all() and not block[:5].any()  # Plain's: 14 pixels above the line at 21
    mixed = _font(20).getmask('cell 细포')
    before = label_size('cell ', 20)[0] - 2 * 3
    assert np.array_equal(mixed[:, : before - 2], _font(20).getmask('cell ')[:, : before - 2])
    assert mixed.shape[1] == label_size('cell 细포', 20)[0] == before + 40 + 2 * 3 and (mixed[10:20, -42:-4] > 0).all()
    assert [len(part) for _, part in fonts.split('a\u200b细 细\n포')] == [2, 4, 1]
    assert not said


def test_a_warning_names_the_letters_that_no_font_has_once(system):
    paths, said = system
    image, boxes, colours = np.zeros((99, 99, 3), np.uint8), np.array([[9.0, 30, 90, 90]]), np.array([[255, 0, 0]])
    for _ in range(2):
        draw_instances(image, boxes, np.array([0]), ['weiß 细胞', '세', 'кл\n\ud800', 9], colours)
    assert len(said) == 1
    assert '细 (U+7EC6), 胞 (U+80DE), 세 (U+C138), which' in said[0] and said[0].endswith('fonts-noto-cjk')
    fonts.find_fonts('ไ' + ''.join(map(chr, range(0x900, 0x910))) + '\U0010fffd')
    assert 'and 8 more letters' in said[1] and said[1].endswith('fonts-noto-core') and len(said) == 2
    box = _font(20).getmask('\U0010fffd')
    assert np.array_equal(_font(20).getmask('细'), box) and not np.array_equal(_font(20).getmask('к'), box)


def test_figures(system, tmp_path):
    paths, said = system
    paths.append(make_font(tmp_path / 'Blocks.ttf', '细'))
    pictures = []
    for name in ('细胞', '胞胞'):
        figure = draw(np.eye(2, dtype=int), [name], None, 'Blues')
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            save_figure(figure, tmp_path / 'x.png')
        pictures.append((tmp_path / 'x.png').read_bytes())
        assert ('Blocks' in figure.axes[0].get_xticklabels()[0].get_fontfamily()) == (name == '细胞')
        plt.close(figure)
    assert pictures[0] != pictures[1] and len(said) == 1 and 'no font here has 胞 (U+80DE)' in said[0]
