"""One HTML page with everything in it: it needs no other file and no network."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from iwbc import __version__
from iwbc.report.figures import Picture
from iwbc.report.study import REFERENCE, Study
from iwbc.report.tables import Table, counts
from iwbc.runs.read import read_videos

_HERE = Path(__file__).parent
_LARGEST = 2_000_000  # bytes of a video that the page takes in


def page(study: Study, results: Sequence[Table], runs: Sequence[Table], pictures: Sequence[Picture], said: str = "") -> str:
    """Make the page: `results`, figures, videos, `runs`, and every run's configuration. It begins with `said`, or else with the
    result in a sentence."""
    from jinja2 import Environment, FileSystemLoader

    templates = Environment(loader=FileSystemLoader(_HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    templates.filters["unbroken"] = lambda name: name.replace(" %", "\u00a0%").replace("-", "\u2011")
    methods = [method for method in study.methods if method != REFERENCE]
    sizes = {"finished run": sum(map(len, study.runs.values())), "method": len(methods), "dataset": len(study.tasks)}
    return templates.get_template("page.html").render(
        lead=said or lead(results),
        contents=", ".join(counts([size], thing) for thing, size in sizes.items()),
        missing=next((counts([len(table.rows)], "more run") for table in runs if table.name == "missing"), ""),
        notes=study.notes,
        results=results,
        runs=runs,
        pictures=[(picture, base64.b64encode(picture.svg).decode()) for picture in pictures],
        videos=_videos(study),
        configurations=_configurations(study),
        style=(_HERE / "page.css").read_text(encoding="utf-8"),
        script=(_HERE / "page.js").read_text(encoding="utf-8"),
        version=__version__,
    )


def lead(results: Sequence[Table]) -> str:
    """Say the result in a sentence for each kind of action: the method with the highest IQM, and how sure it is to be better
    than the baseline."""
    aggregates = [table for table in results if table.name.startswith("aggregates")]
    return " ".join(f"{table.played.capitalize()}: {_lead(table)}" if table.played else _lead(table) for table in aggregates)


def _lead(table: Table) -> str:
    best = max(table.rows, key=lambda row: row[1].value if row[1].value is not None else float("-inf"))
    others = [row for row in table.rows if row is not best]
    if not others:
        return f"{best[0].text}: IQM of the scores {best[1].text}, with its 95 % interval."
    second = max(others, key=lambda row: row[1].value if row[1].value is not None else float("-inf"))
    sentence = (
        f"{best[0].text} has the highest IQM of the scores, {best[1].text}, with its 95 % interval; "
        f"next is {second[0].text} with {second[1].text}."
    )
    if table.columns[-1].startswith("P(") and best[-1].value is not None:
        sentence += f" {table.columns[-1]}: {best[-1].text}."
    return sentence


def _videos(study: Study) -> list[dict[str, Any]]:
    """List what `iwbc record` left in the run folders, as data; videos that are too large are left out."""
    videos = []
    for (task, method), runs in study.runs.items():
        for run in runs:
            for row in read_videos(run.folder):
                path = run.folder / "videos" / row["file"]
                if path.is_file() and path.stat().st_size <= _LARGEST:
                    kind = "image/gif" if path.suffix == ".gif" else "video/mp4"
                    data = f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
                    videos.append({**row, "data": data, "moves": path.suffix != ".gif", "method": method, "task": task})
    return videos


def _configurations(study: Study) -> list[tuple[str, str]]:
    import yaml

    return [
        (f"{run.name}: {method} on {task}", yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True))
        for (task, method), runs in study.runs.items()
        for run in runs
    ]
