"""The page: whole, escaped, loading nothing, and working in a real browser at desktop and phone width."""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from vprm_report import (
    Bar,
    Candidate,
    Card,
    Chart,
    Page,
    RowView,
    Series,
    Step,
    Table,
    bar_chart,
    column_chart,
    html_from_page,
    line_chart,
    page_image,
    percent_axis,
    reliability_chart,
)
from vprm_runtime.bundle.manifest import TilingInfo

pytest.importorskip("jinja2", reason="the page needs Jinja")

HOSTILE = "</script><script>document.title='broken'</script><img src=https://example.invalid/x onerror=alert(1)>"
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
TILING = TilingInfo(tile_size_px=56, min_tiles=1, max_tiles=6, use_thumbnail=True)


def make_page(text: str = "a step with a rather long text that has to wrap on a phone " * 3) -> Page:
    """Six rows of two sources, three of them with wrong calls, the second with two."""
    image = page_image(Image.effect_noise((300, 200), 80).convert("RGB"), TILING)
    rows = []
    for number in range(6):
        wrong = {1: 2, 3: 1, 4: 1}.get(number, 0)
        steps = tuple(Step(text, (n + 1) / 4, 1 if n else -1, n < wrong) for n in range(3))
        candidate = Candidate("Solution", 0.1 * number, steps, right=bool(number % 2), best=True)
        rows.append(
            RowView(
                id=f"row-{number}",
                source=("WeMath", HOSTILE)[number % 2],
                policy="unknown",
                question=f"Question {number} {text}",
                images=(image,),
                candidates=(candidate, Candidate("Other", None, (), error=text, open=False)),
                wrong_calls=wrong,
                severity=0.1 * number,
                score=0.1 * number,
                answer="5",
                verdict="verdict",
            )
        )
    return Page(
        title="A report",
        subtitle=text,
        cards=(Card("Macro F1", "62.0", "note"),),
        charts=(
            Chart(
                "Curve",
                line_chart([Series(text, ((0, 0), (1, 1)), "#000", "marked")], percent_axis(text), percent_axis("y")),
            ),
            Chart("Bins", reliability_chart([(0.2, 0.3, 5), (0.5, 0.5, 0), (0.9, 0.8, 10)])),
            Chart("Columns", column_chart([(text, 3.0), ("b", 0.0)], text, text)),
            Chart("Bars", bar_chart([Bar("PRM", 0.8, 0.7, 0.9, "#00f")], "accuracy")),
        ),
        tables=(Table("Overall", ("Threshold", *(f"Column {n}" for n in range(12))), (("0.5", *["1"] * 12),), text),),
        rows=tuple(rows),
        rows_in_all=9,
        rows_note="note",
    )


def test_nothing_is_loaded_and_text_stays_text() -> None:
    """No address but data URIs and no markup out of texts, whatever a row holds."""
    page = html_from_page(make_page(HOSTILE))
    assert HOSTILE in html.unescape(page)
    assert "<img src=https" not in page and "<script>document" not in page
    without_texts = html.unescape(page).replace(HOSTILE, "")
    assert set(re.findall(r"""(?:src|href)=["']?([a-z]+:)""", without_texts)) == {"data:"}
    assert not re.findall(r"https?://|url\(|@import", without_texts)
    assert "default-src 'none'" in page
    assert page.count("data:image/jpeg;base64,") == 6


def test_a_page_without_rows_has_no_controls() -> None:
    page = html_from_page(replace(make_page(), rows=(), rows_in_all=0))
    assert "<script" not in page and 'id="rows"' not in page and "</table>" in page


def test_image_has_the_grid_that_the_model_sees() -> None:
    """3 x 2 tiles for a 3:2 image; a large one is scaled down; a caption says both."""
    image = page_image(Image.new("RGB", (1500, 1000)), TILING)
    assert (image.columns, image.rows, image.width_px, image.height_px) == (3, 2, 640, 427)
    assert image.caption == "1500 × 1000 px, 3 × 2 tiles and a thumbnail"
    assert page_image(Image.new("RGB", (40, 40)), TILING).caption == "40 × 40 px, 1 tile"


def browse(tmp_path: Path, page: str, width_px: int, fragment: str = "") -> str:
    """The page's DOM after its script has run in headless Chromium; fails on any message of its console."""
    assert CHROMIUM is not None
    (tmp_path / "page.html").write_text(page, "utf-8")
    command = [
        *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
        *("--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width_px},1000"),
        *("--dump-dom", f"{(tmp_path / 'page.html').as_uri()}{fragment}"),
    ]
    environment = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True, env=environment)
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout


def shown_rows(dom: str) -> list[str]:
    """Ids of the rows in the list, in order."""
    return re.findall(r'<span class="id">(row-\d)</span>', dom)


MEASURE = """<script>
const images = [...document.images], wide = document.documentElement;
document.body.dataset.overflow = wide.scrollWidth - wide.clientWidth;
document.body.dataset.images = images.filter((p) => p.naturalWidth > 0 && p.clientWidth > 100).length;
document.body.dataset.grids = [...document.querySelectorAll(".tiles")].filter((g) => g.clientWidth > 100).length;
</script></body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")
def test_in_a_real_browser(tmp_path: Path) -> None:
    """Wrong calls first, filters by address, images and grids drawn, no overflow on a phone, no console message."""
    page = html_from_page(make_page()).replace("</body>", MEASURE)
    desktop = browse(tmp_path, page, 1200)
    assert shown_rows(desktop) == ["row-1", "row-4", "row-3", "row-5", "row-2", "row-0"]
    assert 'data-images="6"' in desktop and 'data-grids="6"' in desktop
    assert ">6 shown</output>" in desktop
    phone = browse(tmp_path, page, 500, "#show=wrong&sort=high&source=WeMath")
    assert shown_rows(phone) == ["row-4"]
    assert 'data-overflow="0"' in phone


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")
def test_hostile_text_in_a_real_browser(tmp_path: Path) -> None:
    """Neither scripts nor images out of texts: the title stays, no request is tried."""
    dom = browse(tmp_path, html_from_page(make_page(HOSTILE)), 1200, "#find=onerror")
    assert "<title>A report</title>" in dom
    assert len(shown_rows(dom)) == 6
