"""Sum up any number of run and sweep folders: a tidy CSV, tables, figures and one self-contained HTML page.

    python -m iwbc.report FOLDER... [out=report] [mixed=false]

FOLDER is a run folder or has run folders below it. Runs that were not evaluated alike (episodes, actions, evaluation seed,
reference returns, versions) are refused, unless mixed=true. `out` (default: report) is written whole or not at all; a
report that is there already is replaced. It gets

    index.html       everything below on one page, with each run's configuration, and the runs that failed or are unfinished
    episodes.csv     a row per run, seed and final episode
    tables.md        the tables in Markdown
    tables.tex       and in LaTeX (booktabs)
    figures/         learning curves, aggregates, performance profiles, weights, curated returns; each as SVG and PNG

Of runs of language models it prints a table and writes runs.csv.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from iwbc.errors import UserError
from iwbc.settings import Settings
from iwbc.system.arguments import parse, run


@dataclass
class Options(Settings):
    folders: list[Path]
    out: Path = Path("report")
    mixed: bool = False


def main(arguments: Sequence[str]) -> None:
    options = parse(arguments, Options)
    if not options.folders:
        raise UserError("give at least one run or sweep folder (see --help)")
    from iwbc.language import report as language

    if folders := language.folders_of(options.folders):
        language.write_report(folders, options.out)
        print(f"{options.out / 'runs.csv'}")
        return
    from rich.console import Console

    from iwbc.report.write import write_report

    write_report(options.folders, options.out, Console(stderr=True), options.mixed)
    print(f"{options.out / 'index.html'}")


if __name__ == "__main__":
    run(main, __doc__)
