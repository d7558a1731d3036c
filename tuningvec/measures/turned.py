"""T turned at random, draw after draw, and what T does beside what its draws do.

A turned T is as long as T and has its spectrum; what T does beyond its draws is a matter of its direction.
"""

import itertools
from collections.abc import Sequence
from typing import Any, Literal

import pandas as pd
from scipy.stats import t

from tuningvec.errors import TuningVecError
from tuningvec.family.spec import Family
from tuningvec.measures import models
from tuningvec.verdict import Verdict, judge

SIDES = ("left", "both")
NONE = "none"  # sides of T itself
WORDS = {"left": "on the left", "both": "on both sides"}


def draws(
    family: Family, members: Sequence[str], count: int, seed: int, dtype: str, removed: Sequence[float] = ()
) -> list[tuple[dict[str, Any], models.Turned]]:
    """T of each member turned `count` times on either kind of side, with member, sides and draw; not yet loaded.

    The model is θ_pre + turned T; with `removed`, θ_ft − λ · turned T for each λ in it, named as scale. Draw i has the
    seed `seed` + i. Raises TuningVecError for fewer than three draws, and as `models.Turned` does.
    """
    if count < 3:
        raise TuningVecError(f"draws is {count}; a spread needs three or more")
    found = []
    for member, scale, sides, draw in itertools.product(members, removed or (None,), SIDES, range(count)):
        about: dict[str, Any] = dict(member=member, sides=sides, draw=draw)
        where: dict[str, Any] = {}
        if scale is not None:
            about, where = about | dict(scale=scale), dict(start=member, scale=-scale)
        found.append((about, models.Turned(family, member, seed + draw, dtype, sides, **where)))
    return found


def against_draws(moves: pd.DataFrame, alpha: float = 0.05) -> pd.DataFrame:
    """What T does beside what its draws do, by member, measure and sides.

    `moves` has a row a move with member, what, sides (NONE for T itself), draw, value and, where values are means of a
    sample, `error`: the standard error of T less its draws. Columns value, mean and sd of the draws, draws (their
    number), `no_more` (how many of them do no more than T), and effect = value − mean, from `low` to `high`: the
    interval that leaves out 0 where T is no further draw of a normal distribution with unknown mean and spread,
    Student's t, for all rows together (Bonferroni).
    """
    own = moves[moves.sides == NONE].set_index(["member", "what"]).value
    groups = moves[moves.sides != NONE].groupby(["member", "what", "sides"], sort=False)
    rows = []
    for (member, what, sides), drawn in groups:
        value, values = own[member, what], drawn.value.to_numpy()
        n, mean, sd = len(values), values.mean(), values.std(ddof=1)
        error = drawn.error.max() if "error" in drawn else 0.0
        half = t.ppf(1 - alpha / groups.ngroups / 2, n - 1) * (sd**2 * (1 + 1 / n) + error**2) ** 0.5
        about = dict(member=member, what=what, sides=sides, value=value, mean=mean, sd=sd, draws=n)
        about |= dict(no_more=int((values <= value).sum()), effect=value - mean)
        rows.append(about | dict(low=value - mean - half, high=value - mean + half))
    return pd.DataFrame(rows)


def intervals(compared: pd.DataFrame) -> str:
    """What the intervals of `against_draws` are, for a rule."""
    return (
        f"intervals are those in which another of {compared.draws.min()} draws would lie (Student's t, 95 % for all "
        "together if draws are normal)"
    )


def judged(
    cases: pd.DataFrame,
    rule: str,
    least: float | pd.Series,
    *,
    direction: Literal[1, 0] = 0,
    unit: str = "",
    digits: int = 3,
    **numbers: Any,
) -> Verdict:
    """Whether T does as much as its draws (`against_draws`), or with `direction` 1 more, by `least`.

    Falsified where T clearly does more, or less, by that; with `direction` 1, where it is shown not to do so much more.
    """
    met = cases.high < least if direction else (cases.low > least) | (cases.high < -least)
    named = cases.assign(sides=cases.sides.map(WORDS))
    about = dict(unit=unit, digits=digits, falsified=bool(met.any()), **numbers)
    return judge(named, rule, least=least, direction=direction, **about)
