"""What is done to the book beyond Sphinx, as an extension of it: colophon, search texts, names, weight, one page."""

import html
import json
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from bs4 import BeautifulSoup, Tag
from sphinx.application import Sphinx
from sphinx.config import Config

from tuningvec.errors import reading

PACKAGE = "tuningvec"
WHOLE = "whole.html"  # the book in one page
UNUSED = (  # below _static: no page asks for these
    "**/*.map",
    "**/*webpack-macros.html",
    "images/logo_*",
    "locales/**/*",
    "scripts/fontawesome.js*",
    "vendor/fontawesome/webfonts/*.ttf",
    "vendor/fontawesome/webfonts/fa-brands-400.woff2",
    "vendor/fontawesome/webfonts/fa-regular-400.woff2",
)
MAPPED = re.compile(r"\n?/[/*]# sourceMappingURL=\S+?\.map(?:\s*\*/)?")
FACE = re.compile(r"@font-face\{[^}]*/(?:fa-brands|fa-regular)-400\.[^}]*\}")  # faces of no icon here
SECOND_FORMAT = re.compile(r',url\([^)]*\.ttf\) format\("truetype"\)')  # for browsers without woff2
ICON_SCRIPT = re.compile(
    r'\s*<script defer src="[^"]*/fontawesome\.js[^"]*"></script>'
)  # the font draws the same icons
TOGGLE = re.compile(r"(?<=>)([^<]*)(</a><details[^>]*><summary)(?=>)")
CITATIONS = re.compile(r'(<div) role="list"( class="citation-list")')  # its children are no list items
TEX = re.compile(r"\\[()]")  # the marks around an equation in a line
HEADER_LINK = re.compile(r'<a class="headerlink"[^>]*>.*?</a>', re.S)


def setup(app: Sphinx) -> dict[str, bool]:
    """What Sphinx calls to take the extension in."""
    app.connect("config-inited", _colophon)
    app.connect("html-page-context", _search)
    app.connect("build-finished", _finish)
    return dict(parallel_read_safe=True, parallel_write_safe=True)


def _colophon(app: Sphinx, config: Config) -> None:
    """Hand the version and CITATION.cff to the template of every page's foot."""
    file = Path(app.confdir) / "CITATION.cff"
    with reading(file, "restore it"):
        citation = yaml.safe_load(file.read_text(encoding="utf-8"))
    config.release = metadata.version(PACKAGE)
    config.html_context = {**config.html_context, "citation": citation, "package": PACKAGE}


def _search(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Give the page of the search, and no other, the texts that excerpts are cut from."""
    if page == "search":
        app.add_js_file("searchtexts.js")
        app.add_js_file("search.js")


def _finish(app: Sphinx, error: Exception | None) -> None:
    folder = Path(app.outdir)
    if error or app.builder.format != "html":
        return
    pages = [folder / f"{name}{app.builder.out_suffix}" for name in sorted(app.env.found_docs)]
    if app.builder.name == "singlehtml":
        single(folder / f"{app.config.root_doc}.html", folder / WHOLE)
        return
    texts = {page.relative_to(folder).as_posix(): text(page.read_text(encoding="utf-8")) for page in pages}
    script = f"const SEARCH_TEXTS = {json.dumps(texts, ensure_ascii=False, indent=0)};\n"
    (folder / "_static" / "searchtexts.js").write_text(script, encoding="utf-8")
    for page in folder.rglob("*.html"):
        page.write_text(named(page.read_text(encoding="utf-8")), encoding="utf-8")
    slim(folder / "_static")


def text(page: str) -> str:
    """The words of a page in its sections with their ids: what Sphinx's search cuts excerpts from."""
    article = BeautifulSoup(page, "html.parser").find("article")
    for gone in article.select(".headerlink, script, style, div.math"):
        gone.decompose()
    return f'<div role="main">{" ".join(TEX.sub("", _words(article)).split())}</div>'


def _words(element: Tag) -> str:
    parts = [
        _words(child) if isinstance(child, Tag) else html.escape(str(child), quote=False) for child in element.children
    ]
    inner = "".join(parts)
    return f'<section id="{element["id"]}">{inner}</section>' if element.name == "section" else inner


def named(page: str) -> str:
    """The page with a name for each toggle of its contents, roles that fit, and without the script that draws icons."""
    page = TOGGLE.sub(lambda found: f'{found[0]} aria-label="Pages of: {found[1].replace(chr(34), "&quot;")}"', page)
    return ICON_SCRIPT.sub("", CITATIONS.sub(r"\1\2", page))


def slim(static: Path) -> None:
    """Remove what no page asks for from the folder `_static`, and what refers to it."""
    for pattern in UNUSED:
        for file in sorted(static.glob(pattern)):
            if file.is_file():
                file.unlink()
    for file in (file for file in static.rglob("*") if file.suffix in (".css", ".js")):
        kept = MAPPED.sub("", before := file.read_text(encoding="utf-8"))
        if file.suffix == ".css":
            kept = SECOND_FORMAT.sub("", FACE.sub("", kept))
        if kept != before:
            file.write_text(kept, encoding="utf-8")
    for folder in sorted((f for f in static.rglob("*") if f.is_dir()), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()


def single(page: Path, target: Path) -> None:
    """Move a book in one page to where its images are, its links pointing into it.

    The marks beside headings go: the same heading stands on several pages, so that their links are not unique.
    """
    whole = HEADER_LINK.sub("", page.read_text(encoding="utf-8"))
    whole = re.sub(rf'href="[^"#]*{page.name}#', 'href="#', whole)
    whole = re.sub(r'href="_downloads/[^"]*"', "", whole)  # files that lie beside a page lie beside no sheet
    target.write_text(CITATIONS.sub(r"\1\2", whole), encoding="utf-8")
    page.unlink()
