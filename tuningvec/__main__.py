"""`python -m tuningvec`: execute the notebooks on one family or several, and build the book."""

import argparse
import os
import sys
import time
from pathlib import Path

from tuningvec import compendium
from tuningvec.compendium import Page, Project
from tuningvec.errors import TuningVecError


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except TuningVecError as error:
        print(f"tuningvec: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tuningvec", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, run, text in (
        ("book", _book, "execute what changed and build the book"),
        ("execute", _execute, "execute what changed"),
        ("prepare", _prepare, "write the notebooks with their parameters filled in, not executed"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("families", nargs="+", help="names in data/families/, or paths of YAML files")
        command.set_defaults(run=run)
        if name == "prepare":
            command.add_argument("--to", type=Path, required=True, help="folder to write to")
        else:
            command.add_argument(
                "--fresh", action="store_true", help="execute every page and measure every table again"
            )
    return parser


def _execute(options: argparse.Namespace) -> list[Page]:
    pages = compendium.plan(Project.here(), options.families)
    if options.fresh:
        os.environ["TUNINGVEC_FRESH"] = str(time.time())  # for the notebooks' kernels
    for page, executed in compendium.execute(pages, options.fresh):
        print(f"{page}: {page.seconds():.1f} s" + ("" if executed else " (kept from an earlier run)"), flush=True)
    return pages


def _book(options: argparse.Namespace) -> None:
    project = Project.here()
    pages = _execute(options)
    compendium.publish(project, pages)
    index = compendium.build(project)
    for page in pages:
        print(f"{page}: {page.seconds():.1f} s")
    print(f"book: {index}")


def _prepare(options: argparse.Namespace) -> None:
    for file in compendium.prepare(compendium.plan(Project.here(), options.families), options.to):
        print(file)


if __name__ == "__main__":
    sys.exit(main())
