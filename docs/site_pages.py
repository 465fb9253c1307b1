"""A mkdocs hook: README.md and CHANGELOG.md become pages of the site, and so does each source file or folder that a page links.

Links in the pages are written for a repository page, where `../configs/presets/quickstart.yaml` opens the file. On the site that
file has no page, so the hook makes one from its text below `source/` and points the link there.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
FROM_ROOT = {"README.md": "index.md", "CHANGELOG.md": "changelog.md"}
"""Files outside docs/ that are pages of their own: path in the repository to path in the site."""
ON_SITE = {".md", ".png", ".svg", ".html"}
"""Endings of the files in docs/ that mkdocs takes over as they are."""
LANGUAGES = {
    ".py": "python",
    ".yaml": "yaml",
    ".yml": "yaml",
    ".sh": "sh",
    ".jsonl": "json",
    ".json": "json",
    ".toml": "toml",
}
LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made from files outside docs/."""
    for name, site_path in FROM_ROOT.items():
        files.append(File.generated(config, site_path, content=(ROOT / name).read_text(encoding="utf-8")))
    pages = {_repository_path(file.src_uri): file.content_string for file in files.documentation_pages()}
    sources = {target for path, text in pages.items() for target in _sources_linked(path, text)}
    for target in sorted(sources):
        files.append(File.generated(config, _site_path(target), content=_source_page(target)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point the links of one page at pages of the site."""
    path = page.file.src_uri
    if path.startswith("source/"):
        return markdown
    folder = posixpath.dirname(path) or "."

    def on_site(match: re.Match[str]) -> str:
        target = _target(_repository_path(path), match[1])
        if not (ROOT / target).exists():
            return match[0]
        return posixpath.relpath(_site_path(target), folder) + (match[2] or "")

    return "\n".join(line if code else LINK.sub(on_site, line) for code, line in _lines(markdown))


def _sources_linked(path: str, text: str) -> Iterator[str]:
    """Paths in the repository of the files that a page links and the site does not have."""
    for code, line in _lines(text):
        for match in [] if code else LINK.finditer(line):
            target = _target(path, match[1])
            if _site_path(target).startswith("source/") and (ROOT / target).exists():
                yield target


def _lines(text: str) -> Iterator[tuple[bool, str]]:
    """Each line, and whether it is in a block of code."""
    code = False
    for line in text.split("\n"):
        fence = line.lstrip().startswith("```")
        yield code or fence, line
        code ^= fence


def _repository_path(site_path: str) -> str:
    return next((name for name, place in FROM_ROOT.items() if place == site_path), f"docs/{site_path}")


def _site_path(repository_path: str) -> str:
    if repository_path in FROM_ROOT:
        return FROM_ROOT[repository_path]
    in_docs = repository_path.startswith("docs/") and Path(repository_path).suffix in ON_SITE
    return repository_path.removeprefix("docs/") if in_docs else f"source/{repository_path}.md"


def _target(page_path: str, link: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(page_path), link))


def _source_page(path: str) -> str:
    if (ROOT / path).is_dir():
        return f"# {path}/\n\n" + "".join(f"- `{file.name}`\n" for file in sorted((ROOT / path).iterdir()))
    text = (ROOT / path).read_text(encoding="utf-8")
    return f"# {path}\n\n````{LANGUAGES.get(Path(path).suffix, 'text')}\n{text.rstrip()}\n````\n"
