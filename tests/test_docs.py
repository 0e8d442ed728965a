"""The documentation: the notebooks run, and the site is built strictly, without a network."""

from __future__ import annotations

import importlib.util
import json
import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pytest
from setups import finish, python, rarely

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


# The shortest of them in every run of the tests.
@pytest.mark.parametrize(
    "notebook", [path if path.stem == "importance_weights" else rarely(path) for path in NOTEBOOKS], ids=lambda path: path.stem
)
def test_a_notebook_runs(notebook: Path, tmp_path: Path) -> None:
    cells = json.loads(notebook.read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert len(code) >= 3
    assert all(cell["outputs"] == [] for cell in cells if cell["cell_type"] == "code")
    (tmp_path / "notebook.py").write_text("\n\n".join(code))
    outcome = finish(python("notebook.py", cwd=tmp_path))
    assert outcome.code == 0, outcome.err


class Page(HTMLParser):
    """A page's links and pictures, and its ids."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.ids.add(value or "")
            if (tag, name) in (("a", "href"), ("img", "src"), ("script", "src"), ("link", "href")):
                self.references.append(value or "")


@pytest.mark.robustness
def test_the_site_is_built_strictly_and_needs_no_network(tmp_path: Path) -> None:
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("needs the extra docs")
    # A proxy that is not there: whatever asks for the network fails.
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    build = ["-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    outcome = finish(python(*build, cwd=ROOT, NO_MKDOCS_2_WARNING="1", **nowhere))
    assert outcome.code == 0, outcome.out + outcome.err
    pages = {path: Page(path.read_text()) for path in (tmp_path / "site").rglob("*.html") if path.name != "404.html"}
    assert len(pages) >= 15
    for path, page in pages.items():
        for reference in page.references:
            name, _, anchor = reference.partition("#")
            if re.match(r"https?:|mailto:|data:", name):
                continue
            target = (path.parent / name).resolve() if name else path
            assert target.exists(), f"{path.name}: {reference}"
            if anchor and target in pages:
                assert anchor in pages[target].ids, f"{path.name}: {reference}"
        loaded = [reference for reference in page.references if re.match(r"https?:.*\.(css|js|woff2?|png|svg)$", reference)]
        assert loaded == [], path.name
    method = (tmp_path / "site" / "method.html").read_text()
    assert method.count("<math") >= 2
    assert "$$" not in re.sub(r"<code.*?</code>", "", method, flags=re.S)
    api = (tmp_path / "site" / "api.html").read_text()
    for name in ("iwbc.training.fit.fit", "iwbc.data.curation.curate", "iwbc.training.trained.Policies.predict"):
        assert f'id="{name}"' in api


def too_wide(text: str) -> list[str]:
    """List the lines over 120 characters that are neither in a table nor in a code block."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    return [line for line in prose.splitlines() if len(line) > 120 and not line.startswith("|")]


def test_prose_is_at_most_120_characters_wide() -> None:
    # Commands write what is in benchmarks/results.
    folders = ("benchmarks", "docs", "examples", "iwbc", "tests", "tools")
    paths = [*ROOT.glob("*.md"), *(path for folder in folders for path in (ROOT / folder).rglob("*.md"))]
    pages = [path.relative_to(ROOT) for path in paths if ROOT / "benchmarks" / "results" not in path.parents]
    assert {Path("README.md"), Path("docs/method.md"), Path("benchmarks/protocol.md")} <= set(pages)
    assert {str(page): lines for page in pages if (lines := too_wide((ROOT / page).read_text()))} == {}


def test_a_wide_line_of_prose_is_seen() -> None:
    wide = 61 * "a "
    assert too_wide(f"{wide}\n| {wide} |\n```\n{wide}\n```\n- {wide}") == [wide, f"- {wide}"]


@pytest.mark.parametrize("page", ["README.md", "docs/language.md"])
def test_what_a_page_says_was_measured_stands_in_the_results(page: str) -> None:
    results = "".join(path.read_text() for path in (ROOT / "benchmarks" / "results").rglob("*.md"))
    said = re.findall(r"[\d.]+ ± [\d.]*\d", (ROOT / page).read_text())
    assert len(said) >= 9
    assert [figure for figure in said if figure not in results] == []


def test_every_dependency_has_its_licence_listed() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    (everything,) = project["optional-dependencies"]["all"]
    extras = re.search(r"\[(.*)\]", everything)[1].split(",")  # type: ignore[index]
    dependencies = [
        *project["dependencies"],
        *(requirement for extra in extras for requirement in project["optional-dependencies"][extra]),
    ]
    names = {re.split(r"[\[<>=]", requirement)[0].lower() for requirement in dependencies}
    assert {"torch", "wandb"} <= names
    page = (ROOT / "docs" / "licences.md").read_text()
    assert names <= {row.lower() for row in re.findall(r"^\| ([\w.-]+) \|", page, re.M)}


def test_the_version_is_the_same_everywhere() -> None:
    from iwbc import __version__

    assert f"version: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()
