"""A verdict is a test of its claim: an effect with its interval, the smallest effect that matters, and a direction."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

Kind = Literal["holds", "reversed", "mixed", "differs", "null explains it", "within chance", "cannot be known here"]
MEANING: dict[Kind, str] = {
    "holds": (
        "in every case the effect is beyond chance, runs the claimed way, and is large enough to matter; or, where the "
        "claim is that there is none, it is shown to be smaller than what matters"
    ),
    "reversed": "in every case it is beyond chance and large enough, and runs the other way",
    "mixed": "some cases are clear and others are not, or run the other way; the counts are given",
    "differs": "the claim has no direction, and the numbers contradict it",
    "null explains it": "the effect, beyond the null or beyond 0, is shown to be smaller than what matters",
    "within chance": "no case is clear either way; the smallest difference that could have been seen is given",
    "cannot be known here": "something prevents a verdict; it is named",
}  # fmt: skip


NO_RUN = "It says nothing about other training runs."
CLUSTERED = ". Items that share a source, such as two questions on one drug, count as one cluster"


@dataclass(frozen=True)
class Verdict:
    """What a measure says of a claim.

    `cases` has a row for each thing that was judged, with `effect`, `low`, `high` and `outcome`, in `unit`, shown with
    so many `digits`; `numbers` are what the page's sentence may name. `why` holds the counts, the smallest difference
    that could have been seen, or what stands in the way. `falsified` tells whether that was found which would change
    our mind; None where it cannot be told.
    """

    kind: Kind
    rule: str
    why: str = ""
    cases: pd.DataFrame = field(default_factory=pd.DataFrame)
    numbers: Mapping[str, Any] = field(default_factory=dict)
    falsified: bool | None = None
    unit: str = ""
    digits: int = 2


def judge(
    cases: pd.DataFrame,
    rule: str,
    *,
    least: float | pd.Series,
    direction: Literal[1, -1, 0] = 1,
    unit: str = "",
    digits: int = 2,
    falsified: bool | None = None,
    **numbers: Any,
) -> Verdict:
    """The verdict on cases with columns effect, low, high and, where a correction decides, `clear`.

    Where cases tell the n of their items and have fewer `sources`, the rule says how those are counted.

    A case is *for* when its interval leaves out 0 (or `clear` says so), its effect has the sign of `direction` and is
    at least `least` in size; *against* likewise with the other sign; *negligible* when its interval lies within ±least;
    else *open*. With `direction` 0 the claim is that there is no effect that matters: negligible cases are for it, and
    those against it have an interval wholly beyond ±least. All for: holds. All against: reversed, or differs where
    there is no direction. Some: mixed. None, all negligible: null explains it. Else within chance, unless the open
    cases are clear of 0 and only their size is in doubt, which is mixed. No case that could be measured: cannot be
    known here.
    """
    known = cases[cases[["effect", "low", "high"]].notna().all(axis=1)]
    if "sources" in cases and (cases.sources < cases.n).any():
        rule = rule.removesuffix(".") + CLUSTERED
    outcome = _outcomes(known, least if np.isscalar(least) else least.loc[known.index], direction)
    cases = cases.assign(outcome=outcome.reindex(cases.index).fillna("unknown"))
    count = cases.outcome.value_counts()
    total, on, against, small = len(cases), *(int(count.get(name, 0)) for name in ("for", "against", "negligible"))
    about = dict(rule=rule, cases=cases, numbers=numbers, falsified=falsified, unit=unit, digits=digits)
    if not len(known):
        return Verdict("cannot be known here", why="no case could be measured", **about)
    if total in (on, against):
        kind: Kind = "holds" if on else "reversed" if direction else "differs"
        return Verdict(kind, why=f"{total} of {total}" if total > 1 else "", **about)
    if on or against:
        counts = [f"{n} of {total} {name}" for name, n in count.items()]
        return Verdict("mixed", why=", ".join(counts), **about)
    if small == total:
        clear = int(_clear(known).sum())
        why = f"within the smallest effect that matters in all {total}" + f", though beyond chance in {clear}" * bool(
            clear
        )
        return Verdict("null explains it", why=why, **about)
    kind, why = _undecided(known[outcome == "open"], total, small, f".{digits}f", unit)
    return Verdict(kind, why=why, **about)


def _undecided(left: pd.DataFrame, total: int, small: int, form: str, unit: str) -> tuple[Kind, str]:
    """Kind and reason where no case is clear and large; `left` are the open ones, `small` the negligible of `total`."""
    if left.empty:
        return "cannot be known here", f"{total - small} of {total} could not be measured"
    clear = _clear(left)
    if clear.all():
        return "mixed", f"beyond chance in {len(left)} of {total}, and not shown to be large enough to matter"
    unseen = left[~clear]
    width = np.maximum((unseen.high - unseen.low) / 2, unseen.effect.abs().where(_beyond(unseen), 0)).max()
    text = f"a difference below {width:{form}} {unit}".rstrip() + " could not have been seen"
    return "within chance", (f"{small} of {total} negligible; in the others " if small else "") + text


def _beyond(cases: pd.DataFrame) -> pd.Series:
    """Whether the interval leaves out 0."""
    return (cases.low > 0) | (cases.high < 0)


def _clear(cases: pd.DataFrame) -> pd.Series:
    return cases["clear"].astype(bool) if "clear" in cases else _beyond(cases)


def _outcomes(cases: pd.DataFrame, least: float | pd.Series, direction: int) -> pd.Series:
    inside = (cases.low > -least) & (cases.high < least)
    if direction == 0:
        beyond = (cases.low > least) | (cases.high < -least)
        found = np.select([inside, beyond], ["for", "against"], "open")
    else:
        large = _clear(cases) & (cases.effect.abs() >= least)
        ahead = np.sign(cases.effect) == direction
        found = np.select([large & ahead, large & ~ahead, inside], ["for", "against", "negligible"], "open")
    return pd.Series(found, index=cases.index, dtype=object)


def unknown(rule: str, why: str, **numbers: Any) -> Verdict:
    """The verdict where something stands in the way."""
    return Verdict("cannot be known here", rule, why, numbers=numbers)
