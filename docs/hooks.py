"""What the site takes from elsewhere: README, CONTRIBUTING, CHANGELOG, the executed tutorial, commands and options."""

from __future__ import annotations

import posixpath
import re
import warnings
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any, Final

import tyro.extras
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter

from robotest.cli.main import COMMANDS

TUTORIAL: Final = "examples/tutorial.ipynb"
PAGES: Final = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    TUTORIAL: "tutorial.md",
}
"""Path in the repository -> page of the site. What is under docs/ has its place already."""
COPIES: Final = {"LICENSE": "LICENSE.txt", "examples/evaluate_policy.py": "examples/evaluate_policy.py"}
"""Files that pages link, as they are."""
OPTIONS: Final = "<!-- commands -->"
"""What the options of all commands replace."""
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")
_LOADED = re.compile(r"""<(?:script|link|img|iframe|source|video)\b[^>]*?\b(?:src|href)=["'](?:https?:)?//[^"']+""")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and files from outside docs/."""
    root = Path(config.config_file_path).parent
    for source, page in PAGES.items():
        text, pictures = (_notebook if source == TUTORIAL else _text)(root / source)
        files.append(File.generated(config, page, content=_relinked(text, source, pictures)))
        for name, picture in pictures.items():
            files.append(File.generated(config, name, content=picture))
    for source, name in COPIES.items():
        files.append(File.generated(config, name, abs_src_path=str(root / source)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Turn links to files of the repository into links to pages, and fill in the options."""
    if page.file.generated_by:
        return markdown
    return _relinked(markdown, f"docs/{page.file.src_uri}").replace(OPTIONS, "\n".join(_options()))


def on_post_page(output: str, page: Page, **_: Any) -> str:
    """Refuse a page that would load something from the network."""
    if loaded := _LOADED.search(output):
        raise PluginError(f"{page.file.src_uri} loads something from the network: {loaded[0]}")
    return output


def _text(path: Path) -> tuple[str, dict[str, bytes]]:
    return path.read_text(encoding="utf-8"), {}


def _notebook(path: Path) -> tuple[str, dict[str, bytes]]:
    """Return a notebook as Markdown, with the outputs that it was committed with."""
    text, resources = MarkdownExporter().from_filename(str(path), {"output_files_dir": "tutorial_files"})
    return text, resources["outputs"]


def _relinked(text: str, source: str, pictures: Container[str] = ()) -> str:
    """Make links relative to the page instead of to `source`, a path in the repository; those to `pictures` are."""
    here = posixpath.dirname(PAGES.get(source, source.removeprefix("docs/")))

    def link(found: re.Match[str]) -> str:
        if found[1] in pictures:
            return found[1]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), found[1]))
        page = {**PAGES, **COPIES}.get(target, target.removeprefix("docs/"))
        return posixpath.relpath(page, here or ".")

    return _LINK.sub(link, text)


def _options() -> Iterator[str]:
    """Yield the lines of a table for each command: its ``--help``."""
    for name, command in COMMANDS.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # tyro's only way to an argparse parser
            parser = tyro.extras.get_parser(command)
        yield f"### robotest {name}\n\n{parser.description}\n\n| argument | meaning |\n|---|---|"
        for action in parser._actions[1:]:  # noqa: SLF001 - argparse has no other list; the first is --help
            flags, kind = ", ".join(action.option_strings) or action.dest.upper(), action.metavar or ""
            words = str(action.help).replace("|", "\\|").replace("<", "&lt;")
            yield f"| {_code(f'{flags} {kind}'.strip())} | {words} |"
        yield ""


def _code(text: str) -> str:
    """Return a code span that may hold pipes within a table."""
    return "<code>" + text.replace("|", "&#124;").replace("<", "&lt;") + "</code>"
