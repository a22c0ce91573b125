"""The page on a grid of trainings in headless Chromium, as wide as a desk's and a phone's screen."""

import html
import json
import re
import shutil
import subprocess

import pytest
from test_comparison.test_report import make_data

from mmdet.comparison.report import write_report

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM, reason='needs chromium')]
# Elements that reach beyond the right edge, other than inside of what scrolls; the smallest letters
LOOK = """
<iframe id="page" style="border:0" width="{width}" height="2000" srcdoc="{page}"></iframe>
<script>
onload = () => {{
  const found = document.getElementById('page').contentDocument, right = found.documentElement.clientWidth;
  for (const details of found.querySelectorAll('details')) details.open = true;
  const body = [...found.body.querySelectorAll('*')];
  const out = body.filter(e => !e.closest('.scroll, pre, svg.defs, svg *'))
    .filter(e => e.getBoundingClientRect().right > right + 1);
  const sizes = body.filter(e => e.childNodes.length && [...e.childNodes].some(n => n.nodeType == 3 && n.data.trim()))
    .filter(e => !e.closest('svg')).map(e => parseFloat(getComputedStyle(e).fontSize));
  document.body.innerHTML = '<p id="seen">' + JSON.stringify({{
    width: right, scroll: found.documentElement.scrollWidth, out: out.map(e => e.outerHTML.slice(0, 80)),
    least: Math.min(...sizes), plots: found.querySelectorAll('svg.plot').length}}) + '</p>';
}};
</script>"""


def chromium(url, tmp_path, *options):
    return subprocess.run(
        [
            CHROMIUM,
            '--headless=new',
            '--no-sandbox',
            '--disable-gpu',
            '--disable-background-networking',
            f'--user-data-dir={tmp_path / "profile"}',
            '--virtual-time-budget=3000',
            '--dump-dom',
            *options,
            url,
        ],
        check=True,
        timeout=120,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ).stdout


@pytest.fixture
def page(tmp_path):
    values = {
        (norm, batch): [0.31, 0.32, 0.35]
        for batch in (1, 2, 4, 16)
        for norm in ('BN', 'GN', 'CBN', 'CBN+', 'SyncCBN', 'a-norm-with-a-rather-long-name')
    }
    return write_report(make_data(values), tmp_path)


@pytest.mark.parametrize('width', [1280, 390])
def test_nothing_is_cut_off_or_tiny(page, tmp_path, width):
    host = tmp_path / 'host.html'
    host.write_text(LOOK.format(width=width, page=html.escape(page.read_text())))
    found = re.search(r'<p id="seen">(.*?)</p>', chromium(f'file://{host}', tmp_path)).group(1)
    seen = json.loads(html.unescape(found))
    assert seen['scroll'] <= seen['width'] and seen['out'] == [] and seen['plots'] == 8
    assert width - 20 <= seen['width'] <= width and seen['least'] >= 11


def test_no_request_is_made(page, tmp_path):
    other = tmp_path / 'other.html'
    other.write_text(page.read_text().replace('<h1>', '<img src="http://localhost:9/x.png"><h1>'))
    for path, count in ((other, 1), (page, 0)):
        log = tmp_path / 'net.json'
        assert 'Norms compared' in chromium(f'file://{path}', tmp_path, f'--log-net-log={log}')
        # the browser's own requests, for updates, have no origin
        asked = set(re.findall(r'"initiator":"(?!not an origin).*?"url":"(http[^"]*)"', log.read_text()))
        assert len(asked) == count, asked
