"""The built book in Chromium, opened from the disk as a reader opens it, and the book on paper."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from bs4 import BeautifulSoup

from tuningvec.book import compendium, pdf
from tuningvec.book.compendium import Project
from tuningvec.errors import TuningVecError

api = pytest.importorskip("playwright.sync_api", reason="no Playwright: install the extra `test`")
axe = pytest.importorskip("axe_playwright_python", reason="no axe: install the extra `test`")
if not any(shutil.which(name) for name in pdf.NAMES):
    pytest.skip("no Chromium: apt-get install chromium", allow_module_level=True)

ROOT = Path(__file__).resolve().parent.parent
AXE = Path(axe.__file__).with_name("axe.min.js").read_text(encoding="utf-8")
WIDTHS = {390: 844, 1440: 900, 1920: 1080}
LONGEST = 8500  # pixels of a page at a width of 1440
GRAVE = ("serious", "critical")
STILL = "*, *::before, *::after { transition: none !important; animation: none !important; }"
READY = "async () => { await document.fonts.ready; await window.MathJax?.startup?.promise; }"
DRAWN = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
OPEN = "() => document.querySelectorAll('main details').forEach(part => { part.open = true; })"
JUDGED = """async rules => {
  const some = rules ? {runOnly: rules} : {};
  const options = {resultTypes: ["violations"], preload: false, ...some};
  const {violations} = await axe.run({exclude: ["mjx-container > svg"]}, options);
  return violations.flatMap(one => one.nodes.map(node => [one.impact, `${one.id}: ${node.html.slice(0, 150)}`]));
}"""
CUT = """() => {
  const found = [], page = document.documentElement;
  document.querySelectorAll("mjx-assistive-mml").forEach(part => part.remove());  // what is read aloud is not cut
  if (page.scrollWidth > innerWidth) found.push(`the page is ${page.scrollWidth} wide`);
  for (const part of document.querySelectorAll("main *, footer *")) {
    const hidden = part.clientWidth <= 1 || part.closest("svg") || part.tagName === "MJX-CONTAINER";
    if (hidden || part.scrollWidth <= part.clientWidth + 1 || getComputedStyle(part).overflowX === "visible") continue;
    const named = part.tagName === "FIGURE" || ["region", "group"].includes(part.role);
    const told = part.tabIndex === 0 && named && part.ariaLabel;
    if (!part.classList.contains("scrolls") || !told)
      found.push(`${part.tagName}.${part.className} is ${part.scrollWidth} wide in ${part.clientWidth}: ` +
                 part.textContent.trim().slice(0, 60));
  }
  return found;
}"""
ICONS = """() => [...document.querySelectorAll("i[class*=' fa-'], span[class*=' fa-']")].filter(icon => {
  const drawn = getComputedStyle(icon, "::before");
  return drawn.content === "none" || !document.fonts.check(`${drawn.fontWeight} 16px ${drawn.fontFamily}`);
}).map(icon => icon.className)"""
CHAPTERS = {
    "index.md": "# The book\n\nIt compares with a null & more, {ref}`sec-more`.\n\n$$a = b$$\n",
    "more.md": "# More\n\n(sec-more)=\n## The null\n\nA vector $T$, as in {numref}`tab-wide`.\n\n"
    "Cite it by {download}`this file <../CITATION.cff>`.\n\n"
    ":::{table} Wide.\n:name: tab-wide\n\n"
    + "".join("| " + " | ".join([cell] * 30) + " |\n" for cell in ("head", "---", "1.2345678"))
    + ":::\n",
}

FAULTY = """<!DOCTYPE html><html lang="en" data-theme="light"><title>T</title>
<style>[data-theme=dark] p { color: #eee } .cut { overflow: hidden; white-space: nowrap; width: 50px }</style>
<script src="http://127.0.0.1:9/x.js"></script><script>console.error("lost"); nothing();</script><main>
<i class="fa-solid fa-x"></i><a href="gone.html">a</a><a href="#gone">b</a><img src="x.png">
<div style="width: 500px">wide</div><p>seen</p><p class="cut">much too long for it</p></main></html>"""
FAULTS = (
    "asks for http://127.0.0.1:9/x.js",
    "does not get file:",
    "console: lost",
    "error: nothing is not defined",
    "light: critical image-alt",
    "dark: serious color-contrast",
    "390: the page is 5",
    "1920: P.cut is",
    "no icon: fa-solid fa-x",
)
LOST = (" loads http://127.0.0.1:9/x.js", ": no file gone.html", ": no place #gone", ": no file x.png")


def found() -> tuple[Path | None, str]:
    """The book to look at, or the reason why there is none."""
    if folder := os.environ.get("TUNINGVEC_BOOK"):
        return Path(folder).resolve(), ""
    built, project = ROOT / "_build" / "sources", Project(ROOT)
    if built.is_file() and built.read_text(encoding="utf-8") == compendium._sources(project):
        return ROOT / "_build" / "html", ""
    return None, "build the book first: make book"


def pages(folder: Path) -> list[str]:
    files = (file.relative_to(folder) for file in folder.rglob("*.html"))
    return sorted(file.as_posix() for file in files if file.parts[0] != "_static" and str(file) != "index.html")


BOOK, WHY_NOT = found()
NAMES = pages(BOOK) if BOOK else [pytest.param("", marks=pytest.mark.skip(reason=WHY_NOT))]
needs_the_book = pytest.mark.skipif(BOOK is None, reason=WHY_NOT)


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with api.sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=pdf.chromium(), args=pdf.FLAGS)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project of two chapters, with the book's own configuration, built."""
    root = tmp_path_factory.mktemp("small")
    shutil.copytree(ROOT / "book", root / "book", ignore=shutil.ignore_patterns("*.md", "results", "mathjax"))
    for folder in ("build", "data"):
        (root / folder).mkdir()
    for name in ("CITATION.cff", "_config.yml"):
        shutil.copy(ROOT / name, root)
    for name, text in CHAPTERS.items():
        (root / "book" / name).write_text(text, encoding="utf-8")
    (root / "_toc.yml").write_text("format: jb-book\nroot: book/index\nchapters:\n  - file: book/more\n")
    compendium._copy_mathjax(root / "book" / "_static" / "mathjax")
    compendium.build(Project(root))
    return Project(root)


class Visit:
    """A page opened from the disk, and what it asked for and complained of."""

    def __init__(self, browser: object, book: Path, name: str, width: int = 1440) -> None:
        self.page = browser.new_page(viewport=dict(width=width, height=WIDTHS[width]), color_scheme="light")
        self.findings: list[str] = []
        inside = (book.as_uri() + "/", "data:")
        self.page.on("request", lambda r: r.url.startswith(inside) or self.findings.append(f"asks for {r.url}"))
        self.page.on("requestfailed", lambda r: self.findings.append(f"does not get {r.url}"))
        self.page.on("console", lambda m: m.type == "error" and self.findings.append(f"console: {m.text}"))
        self.page.on("pageerror", lambda error: self.findings.append(f"error: {error}"))
        self.page.goto(f"{book.as_uri()}/{name}", wait_until="load")
        self.page.add_style_tag(content=STILL)
        self.page.evaluate(READY)

    def __enter__(self) -> "Visit":
        return self

    def __exit__(self, *_: object) -> None:
        self.page.close()

    def judge(self, theme: str, rules: list[str] | None = None) -> None:
        """Take in what axe finds grave in a theme."""
        self.page.evaluate("theme => { document.documentElement.dataset.theme = theme; }", theme)
        judged = self.page.evaluate(JUDGED, rules)
        self.findings += [f"{theme}: {impact} {what}" for impact, what in judged if impact in GRAVE]


def look(browser: object, book: Path, name: str) -> list[str]:
    """What is wrong with a page, at every width and in both themes."""
    with Visit(browser, book, name) as visit:
        visit.findings += [f"no icon: {icon}" for icon in visit.page.evaluate(ICONS)]
        visit.page.evaluate(OPEN)
        visit.page.evaluate(AXE)
        visit.judge("light")
        visit.judge("dark", ["color-contrast"])  # the one rule that asks for colours
        for width, height in WIDTHS.items():
            visit.page.set_viewport_size(dict(width=width, height=height))
            visit.page.evaluate(DRAWN)
            visit.findings += [f"{width}: {cut}" for cut in visit.page.evaluate(CUT)]
        return visit.findings


def broken(book: Path) -> list[str]:
    """Links and files that pages name and that are not there, and files of other hosts that they would load."""
    read = {name: BeautifulSoup((book / name).read_text(encoding="utf-8"), "lxml") for name in pages(book)}
    ids = {(book / name).resolve(): {tag["id"] for tag in page.select("[id]")} for name, page in read.items()}
    lost = []
    for name, page in read.items():
        for tag in page.select("a[href], link[href], [src]"):
            link = tag.get("href") or tag.get("src")
            where = urlsplit(link)
            target = (book / name).parent / unquote(where.path) if where.path else book / name
            outside = bool(where.scheme or where.netloc)
            if outside and tag.name != "a" and where.scheme != "data":
                lost.append(f"{name} loads {link}")
            elif not outside and not target.is_file():
                lost.append(f"{name}: no file {link}")
            elif not outside and where.fragment and unquote(where.fragment) not in ids.get(target.resolve(), ()):
                lost.append(f"{name}: no place {link}")
    for sheet in book.rglob("*.css"):
        for link in re.findall(r"url\(['\"]?([^'\")]+)", sheet.read_text(encoding="utf-8")):
            if not link.startswith(("data:", "#")) and not (sheet.parent / urlsplit(link).path).is_file():
                lost.append(f"{sheet.relative_to(book)}: no file {link}")
    return lost


def search(browser: object, book: Path, word: str) -> tuple[list[str], list[str]]:
    """The excerpts that the search for a word shows, and what is wrong."""
    with Visit(browser, book, f"search.html?q={word}") as visit:
        visit.page.wait_for_function("document.querySelector('#search-results')?.innerText.includes('finished')")
        visit.page.wait_for_timeout(100)  # excerpts are cut after the count is told
        return visit.page.locator("#search-results ul.search > li").all_inner_texts(), visit.findings


@pytest.mark.parametrize("name", NAMES)
def test_a_page_asks_nobody_complains_of_nothing_and_is_read_by_everybody(browser, name):
    assert look(browser, BOOK, name) == []


def test_what_is_wrong_with_a_page_is_seen(browser, tmp_path):
    (tmp_path / "bad.html").write_text(FAULTY, encoding="utf-8")
    seen = "\n".join(look(browser, tmp_path, "bad.html"))
    assert [fault for fault in FAULTS if fault not in seen] == []
    assert broken(tmp_path) == [f"bad.html{lost}" for lost in LOST]


@needs_the_book
def test_every_link_leads_somewhere():
    assert broken(BOOK) == []


@needs_the_book
def test_no_page_is_too_long(browser):
    long = {}
    for name in NAMES:
        with Visit(browser, BOOK, name) as visit:
            if (height := visit.page.evaluate("document.documentElement.scrollHeight")) > LONGEST:
                long[name] = height
    assert long == {}


@needs_the_book
def test_the_search_shows_the_word_in_the_book(browser):
    shown, findings = search(browser, BOOK, "null")
    assert shown and [one for one in shown if "null" not in one.partition("\n")[2].lower()] == [] == findings


def test_the_search_cuts_excerpts_without_a_server(browser, small):
    shown, findings = search(browser, small.root / "_build" / "html", "null")
    assert sorted(one.splitlines()[0] for one in shown) == ["More", "More > The null", "The book"]
    assert all("null" in one.partition("\n")[2].lower() for one in shown) and findings == []


def test_a_small_book_is_whole_without_what_was_left_out(browser, small):
    book = small.root / "_build" / "html"
    assert broken(book) == []
    assert [finding for name in pages(book) for finding in look(browser, book, name) if "Wide." not in finding] == []
    left = {file.suffix for file in book.rglob("*")}
    assert not left & {".map", ".ttf"} and not (book / "_sources").exists() and not (book / "_static/locales").exists()


def test_every_page_tells_version_and_citation(small):
    version = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"]
    for name in pages(small.root / "_build" / "html"):
        page = BeautifulSoup((small.root / "_build" / "html" / name).read_text(encoding="utf-8"), "lxml")
        foot = " ".join(page.select_one("footer.bd-footer-content").get_text().split())
        assert re.search(rf"version {version}; this book was built on \d\d \w+ \d{{4}}", foot) and "How to cite" in foot


def test_the_book_is_printed_whole_and_linked(small):
    about = dict(os.environ, TUNINGVEC_DATA=str(small.root / "data"), PYTHONPATH=str(ROOT))
    subprocess.run([sys.executable, "-m", "tuningvec", "pdf"], env=about, check=True)  # Playwright runs here already
    printed = (small.root / "_build" / "tuningvec.pdf").read_bytes()
    assert printed.startswith(b"%PDF-") and b"/Outlines" in printed and b"/MarkInfo" in printed
    assert b"/Dest" in printed and b"file:" not in printed


def test_without_chromium_the_print_says_what_to_install(small, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TuningVecError, match="apt-get install chromium"):
        pdf.write(small)
