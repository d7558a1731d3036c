"""Numbers as a page writes them: significant digits, signs, ranges, and templates that name them."""

import html
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.typing import NAType

from tuningvec.errors import TuningVecError

SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
CODES = {ord(sign): f"&#{ord(sign)};" for sign in "\\|*_`$[]{}~#"}  # signs that Markdown would read
MARKED = re.compile(r"\[([^\[\]]*)\]\{\.[\w-]+\}")  # a text in a colour
FIELD = re.compile(r"(?<![\w\\^])\{(\w+)(?::([^{}]*))?\}")  # not the braces of a formula


def number(value: float | np.number | NAType, digits: int) -> str:
    """`value` with so many significant digits, none for an integer; a dash for what is not known."""
    if pd.isna(value):
        return "–"
    if digits == 0:
        text = f"{value:,.0f}"
    elif value != 0 and not 1e-4 <= abs(value) < 1e6:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        text = mantissa + "·10" + str(int(exponent)).translate(SUPERSCRIPT)
    elif abs(value) >= 10**digits:
        text = f"{value:,.0f}"
    else:
        text = f"{value:#.{digits}g}".rstrip(".")
    return text.replace("-", "−")


def formatted(value: Any, form: str = "") -> str:
    """A number by a format of Python's, with a real minus; of many the smallest and the largest, as `0.12 to 0.34`.

    Texts are listed. What is not known is a dash.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, pd.Series | np.ndarray | list | tuple):
        values = pd.Series(value).dropna()
        if len(values) and isinstance(values.iloc[0], str):
            return listed(values)
        if values.empty:
            return "–"
        ends = [formatted(values.min(), form), formatted(values.max(), form)]
        return ends[0] if ends[0] == ends[1] else " to ".join(ends)
    if pd.isna(value):
        return "–"
    text = format(value, form).replace("-", "−")
    return text.lstrip("−+") if not text.strip("−+0.%") and "+" not in form else text  # no minus before a zero


def filled(template: str, numbers: Mapping[str, Any]) -> str:
    """The template with each `{name:format}` replaced; raises TuningVecError for a name that is not there.

    Braces that follow a letter, `_`, `^` or a backslash are a formula's and stay.
    """

    def replaced(found: re.Match[str]) -> str:
        if found[1] not in numbers:
            raise TuningVecError(f"{template[:40]!r}: no number {found[1]!r}; there are {', '.join(numbers)}")
        return formatted(numbers[found[1]], found[2] or "")

    return FIELD.sub(replaced, template)


def texts(table: pd.DataFrame, template: str) -> list[str]:
    """The template filled from each row."""
    return [filled(template, row) for row in table.to_dict("records")]


def each(table: pd.DataFrame, template: str, mark: str = "; ") -> str:
    """The template filled from each row, one after the other."""
    return mark.join(texts(table, template))


def listed(parts: Iterable[str], last: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`; semicolons where the parts hold commas."""
    words = list(parts)
    if any("," in word or " and " in word for word in words):
        return "; ".join(words)
    return f" {last} ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def cut(text: str, longest: int) -> str:
    """Text as it is, with a mark where it was cut, and signs that cannot be seen by their codes."""
    short = text.strip()[:longest] + (" […]" if len(text.strip()) > longest else "")
    signs = (c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in short.replace("\r\n", "\n"))
    return "".join(signs) or "(nothing)"


def quoted(text: str, longest: int) -> str:
    """`cut` text in a cell of a table."""
    return html.escape(cut(text, longest), quote=False).translate(CODES).replace("\n", "<br>")


def code(text: object) -> str:
    """Text as code in a line or a cell; what would end either is shown as an underscore."""
    return "`" + re.sub(r"[`|]|[^ -~\w]", "_", str(text)) + "`"


def plain(value: Any) -> Any:
    """A cell without the marks of Markdown that tables of pages hold: colours, line breaks, codes of signs."""
    return html.unescape(MARKED.sub(r"\1", value).replace("<br>", "\n")) if isinstance(value, str) else value
