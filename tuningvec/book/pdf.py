"""The book as one PDF: Sphinx's single page, printed by Chromium."""

import shutil
from pathlib import Path

from tuningvec.book import compendium
from tuningvec.book.compendium import Project
from tuningvec.errors import TuningVecError, writing

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--no-sandbox", "--disable-gpu")  # a container has neither the rights of a sandbox nor a graphics card
WIDTH = 680  # pixels at 96 an inch: A4 less margins of 15 mm
MINUTES = 10  # that Chromium may take
FOOT = (
    '<div style="font: 8px sans-serif; width: 100%; margin: 0 15mm; display: flex; justify-content: space-between">'
    '<span class="title"></span><span><span class="pageNumber"></span> / <span class="totalPages"></span></span></div>'
)
SHEET = dict(
    format="A4", margin=dict(top="15mm", bottom="18mm", left="15mm", right="15mm"), print_background=True,
    display_header_footer=True, header_template="<span></span>", footer_template=FOOT, outline=True, tagged=True,
)  # fmt: skip
READY = "async () => { await document.fonts.ready; await window.MathJax?.startup?.promise; }"
FIT = """width => {
  const parts = [...document.querySelectorAll(".bd-article :is(table, mjx-container[display], .output)")];
  const shares = parts.map(part => Math.min(width, part.parentElement.clientWidth || width) / part.scrollWidth);
  parts.forEach((part, number) => { if (shares[number] < 1) part.style.zoom = shares[number]; });
}"""


def chromium() -> str:
    """The path of Chromium or Chrome; raises TuningVecError where there is none."""
    for name in NAMES:
        if path := shutil.which(name):
            return path
    raise TuningVecError("no Chromium, which prints the book; apt-get install chromium, or install Google Chrome")


def write(project: Project) -> Path:
    """Print the book of the results that are laid out to `_build/tuningvec.pdf`; returns that file.

    Pages and outline are linked and numbered; tables and equations that are wider than the sheet are shrunk to it.
    Raises TuningVecError where Chromium or Playwright is missing, or Sphinx had something to warn of.
    """
    browser = chromium()
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise TuningVecError("package playwright is not installed; install the extra `pdf`") from None
    page = compendium.sphinx(project, project.root / "build" / "single", "singlehtml") / "whole.html"
    target = project.root / "_build" / "tuningvec.pdf"
    with writing(target), sync_playwright() as playwright:
        target.parent.mkdir(exist_ok=True)
        window = playwright.chromium.launch(executable_path=browser, args=FLAGS)
        sheet = window.new_page(viewport=dict(width=WIDTH, height=1000), color_scheme="light")
        sheet.set_default_timeout(MINUTES * 60_000)
        sheet.emulate_media(media="print")
        sheet.goto(page.as_uri(), wait_until="load")
        sheet.evaluate(READY)
        sheet.evaluate(FIT, WIDTH)
        sheet.pdf(path=target, **SHEET)
    return target
