"""What mkdocs does to pages on their way into the site: equations become MathML, which browsers draw by themselves, and links
to files of the repository become their names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
_PICTURE = re.compile(r"!\[([^\]]*)\]\(((?:\.\./)+)(?!\.)([^)]+\.(?:svg|png))\)")
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?:\.\./)+(?!\.)[^)]*\)")
_DISPLAY, _INLINE = re.compile(r"\$\$(.+?)\$\$", re.S), re.compile(r"(?<![\\$`\w])\$([^$\n`]+?)\$(?![\w$])")
_CODE = re.compile(r"(```.*?```|`[^`\n]*`)", re.S)


def on_files(files: Files, config: Any) -> Files:
    """Pictures of the repository that pages show, and its changelog, are part of the site."""
    for page in [file for file in files if file.src_uri.endswith(".md")]:
        for _, _, name in _PICTURE.findall((Path(config["docs_dir"]) / page.src_uri).read_text(encoding="utf-8")):
            if (ROOT / name).exists() and files.get_file_from_path(_place(name)) is None:
                files.append(File.generated(config, _place(name), abs_src_path=str(ROOT / name)))
    files.append(File.generated(config, "changes.md", content=(ROOT / "CHANGELOG.md").read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **kwargs: Any) -> str:
    """Before it becomes HTML; what stands in code stays as it is."""
    up = "../" * page.file.src_uri.count("/")
    markdown = _PICTURE.sub(lambda m: f"![{m[1]}]({up}{_place(m[3])})", markdown)
    markdown = _LINK.sub(lambda m: m[1] if m[1].startswith("`") else f"*{m[1]}*", markdown)
    parts = _CODE.split(markdown)
    parts[::2] = [_INLINE.sub(lambda m: convert(m[1]), _DISPLAY.sub(lambda m: _display(m[1]), part)) for part in parts[::2]]
    return "".join(parts)


def _display(latex: str) -> str:
    return f"<div>{convert(latex.strip(), display='block')}</div>"


def _place(name: str) -> str:
    return f"pictures/{name.replace('/', '-')}"
