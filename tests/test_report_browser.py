"""The report's page in headless Chromium, at a laptop's width, a narrow one and a phone's.

Needs a `chromium` command: `apt-get install chromium` on Debian. `.ci/run` installs it where it can.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from test_report import make_sweep, report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.chromium,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (apt-get install chromium)"),
]

# Runs in the page after its own script, and leaves what it finds in an attribute.
CHECK = """<script>
addEventListener("load", () => {
  const order = id => [...document.querySelectorAll(`#${id} tbody tr`)].map(row => row.cells[0].textContent);
  const click = (id, column) => document.querySelectorAll(`#${id} thead [role=button]`)[column].click();
  // On a phone pictures are wider, to be read, and scroll.
  const visible = image => (image.closest(".scroll") ?? image).clientWidth;
  const found = {
    overflow: document.documentElement.scrollWidth - innerWidth,
    pictures: [...document.images].map(image => image.complete && image.naturalWidth > 0 && visible(image) <= innerWidth),
    widths: [...document.querySelectorAll("#results table")].map(table => table.offsetWidth),
    print: [...document.styleSheets[0].cssRules].some(rule => rule.media && rule.media.mediaText === "print"),
    before: order("aggregates"),
  };
  click("aggregates", 1); found.best = order("aggregates");
  click("aggregates", 1); found.worst = order("aggregates");
  click("aggregates", 5); found.gaps = order("aggregates");
  document.querySelector("#aggregates thead [role=button]").dispatchEvent(new KeyboardEvent("keydown", {key: "Enter"}));
  found.names = order("aggregates");
  found.sorted = document.querySelectorAll("#aggregates th[aria-sort]").length;
  click("scores", 1); found.last = [...document.querySelectorAll("#scores tr")].pop().cells[0].textContent;
  document.body.dataset.found = JSON.stringify(found);
});
</script></body>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    report(make_sweep(folder / "sweep"), folder / "report")
    path = folder / "check.html"
    path.write_text((folder / "report" / "index.html").read_text().replace("</body>", CHECK))
    return path


def chromium(page: Path, *options: str) -> str:
    profile = page.parent / "profile"
    line = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", *options, page.as_uri()]
    return subprocess.run(line, capture_output=True, text=True, check=True, timeout=300).stdout


def found(page: Path, width: int) -> dict[str, Any]:
    """What the page's script found, in a frame of that width: Chromium's own windows are 500 pixels wide at least."""
    frame = page.with_name(f"frame-{width}.html")
    frame.write_text(
        f'<body style="margin: 0"><iframe src="{page.name}" style="border: 0; width: {width}px; height: 900px"></iframe>'
        "<script>"
        "addEventListener('load', () => setTimeout(() => { document.body.dataset.found = "
        "document.querySelector('iframe').contentDocument.body.dataset.found }, 500))</script></body>"
    )
    dom = chromium(
        frame, "--allow-file-access-from-files", "--window-size=1400,900", "--virtual-time-budget=5000", "--dump-dom"
    )
    match = re.search(r'data-found="([^"]*)"', dom)
    assert match, "the page's script failed"
    result: dict[str, Any] = json.loads(html.unescape(match[1]))
    return result


@pytest.mark.parametrize("width", [1280, 700, 390])
def test_the_page_fits_and_its_pictures_load(page: Path, width: int) -> None:
    result = found(page, width)
    assert result["overflow"] <= 0
    assert result["pictures"] == [True] * 9
    assert result["print"]
    if width == 1280:
        assert max(result["widths"]) <= width


def test_column_heads_sort(page: Path) -> None:
    result = found(page, 1280)
    methods = ["reference", "BC", "filtered BC 10 %", "iw-BC(Q)"]  # in make_sweep each is better than the one before
    assert result["before"] == methods
    assert result["best"] == methods[::-1]
    assert result["worst"] == methods
    # The first two are never better than the baseline, which has no probability and stays last.
    assert result["gaps"] == ["iw-BC(Q)", "reference", "BC", "filtered BC 10 %"]
    assert result["names"] == sorted(methods, key=str.casefold)
    assert result["sorted"] == 1
    assert result["last"] == "average"


def test_the_page_prints(page: Path) -> None:
    pdf = page.with_suffix(".pdf")
    chromium(page, "--no-pdf-header-footer", f"--print-to-pdf={pdf}")
    # A4 on its side, in points.
    boxes = {
        tuple(map(round, map(float, box.split()))) for box in re.findall(r"/MediaBox \[([^\]]*)\]", pdf.read_text("latin-1"))
    }
    assert {(x, y) for _, _, x, y in boxes} == {(842, 595)}
