"""One HTML page with everything in it: it needs no other file and no network."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path

from iwbc import __version__
from iwbc.report.figures import Picture
from iwbc.report.study import Study
from iwbc.report.tables import Table, counts, to_html

_HERE = Path(__file__).parent


def page(study: Study, results: Sequence[Table], runs: Sequence[Table], pictures: Sequence[Picture]) -> str:
    """The page: `results`, figures, `runs`, and every run's configuration."""
    sizes = {"finished run": sum(map(len, study.runs.values())), "method": len(study.methods), "dataset": len(study.tasks)}
    contents = ", ".join(counts([size], thing) for thing, size in sizes.items())
    missing = next((len(table.rows) for table in runs if table.name == "missing"), 0)
    link = f' <a href="#missing">{counts([missing], "more run")} failed or unfinished.</a>' if missing else ""
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in study.notes)
    sections = {
        "results": ("Results", "".join(map(_table, results)) or "<p>No run was evaluated.</p>"),
        "figures": ("Figures", "".join(map(_figure, pictures)) or "<p>There is nothing to draw.</p>"),
        "all-runs": ("Runs", "".join(map(_table, runs))),
        "configurations": ("Configurations", _configurations(study)),
    }
    links = "".join(f'<a href="#{anchor}">{title}</a> ' for anchor, (title, _) in sections.items())
    body = "".join(
        f'<section id="{anchor}"><h2>{title}</h2>{content}</section>\n' for anchor, (title, content) in sections.items()
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>iwbc report</title>
<style>
{(_HERE / "page.css").read_text(encoding="utf-8")}</style>
</head>
<body>
<h1>Report</h1>
<p>{contents}.{link} Made by iwbc {__version__}.</p>
<nav>{links}</nav>
{f'<div class="warning">{notes}</div>' if notes else ""}
{body}<script>
{(_HERE / "page.js").read_text(encoding="utf-8")}</script>
</body>
</html>
"""


def _table(table: Table) -> str:
    shape = "wrap" if table.name == "missing" else "wide" if len(table.columns) > 6 else ""
    return f'<div class="{shape}">{to_html(table)}</div>'


def _figure(picture: Picture) -> str:
    caption, data = html.escape(picture.caption), base64.b64encode(picture.svg).decode()
    image = f'<img alt="{caption}" src="data:image/svg+xml;base64,{data}">'
    return f'<figure id="figure-{html.escape(picture.name)}">{image}<figcaption>{caption}</figcaption></figure>\n'


def _configurations(study: Study) -> str:
    import yaml

    parts = []
    for (task, method), runs in study.runs.items():
        for run in runs:
            text = html.escape(yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True))
            title = html.escape(f"{run.name}: {method} on {task}")
            parts.append(f"<details><summary>{title}</summary><pre>{text}</pre></details>\n")
    return "".join(parts) or "<p>No run has finished.</p>"
