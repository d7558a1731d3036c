"""T turned at random, draw after draw, and what T does beside what its draws do.

A turned T is as long as T and has its spectrum; what T does beyond its draws is a matter of its direction.
"""

from typing import Any, Literal

import pandas as pd
from scipy.stats import t

from tuningvec.verdict import Verdict, judge

NONE = "none"  # sides of T itself
WORDS = {"left": "on the left", "both": "on both sides"}


def against_draws(moves: pd.DataFrame, alpha: float = 0.05) -> pd.DataFrame:
    """What T does beside what its draws do, by member, measure and sides.

    `moves` has a row a move with member, what, sides (NONE for T itself), draw, value and, where values are means over
    a sample, `error`, the standard error of T less its draws, and `items`, the sample's size. Columns value, mean and
    sd of the draws, draws (their number), `no_more` (how many of them do no more than T), and effect = value − mean,
    from `low` to `high`: the interval that leaves out 0 where T is no further draw of a normal distribution with
    unknown mean and spread, Student's t (with `error` by Satterthwaite's degrees of freedom), for all rows together
    (Bonferroni).
    """
    own = moves[moves.sides == NONE].set_index(["member", "what"]).value
    groups = moves[moves.sides != NONE].groupby(["member", "what", "sides"], sort=False)
    rows = []
    for (member, what, sides), drawn in groups:
        value, values = own[member, what], drawn.value.to_numpy()
        n, mean, sd = len(values), values.mean(), values.std(ddof=1)
        parts = [(sd**2 * (1 + 1 / n), n - 1)]
        if "error" in drawn:
            parts.append((drawn.error.iloc[0] ** 2, drawn["items"].iloc[0] - 1))
        variance = sum(part for part, _ in parts)
        freedom = variance**2 / sum(part**2 / df for part, df in parts) if variance else 1.0
        half = t.ppf(1 - alpha / groups.ngroups / 2, freedom) * variance**0.5
        about = dict(member=member, what=what, sides=sides, value=value, mean=mean, sd=sd, draws=n)
        about |= dict(no_more=int((values <= value).sum()), effect=value - mean)
        rows.append(about | dict(low=value - mean - half, high=value - mean + half))
    columns = ["member", "what", "sides", "value", "mean", "sd", "draws", "no_more", "effect", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


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
