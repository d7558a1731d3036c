"""Mutators: what a disk, an editor, a converter or a stranger may do to a file that the package reads."""

import copy
import json
import random
from typing import Any

ODD: list[Any] = [
    None, True, False, 0, 1, -1, 0.5, -0.0, 1e308, 2**31, 2**63, 2**64, -(2**63), 10**400, float("inf"), float("nan"),
    "", " ", "x", "é", "\0", "\ud800", "\u2028", "../x", "/etc/passwd", "a" * 5000, "7", "2020-01-01", "<script>",
    [], {}, [[]], [None], ["x"], [-1, -1], [0, 2**63], {"a": []}, {"": None}, [1.5], [float("inf")], [0] * 2000,
]  # fmt: skip
BYTES = (b"\0", b"\xff", b"\xed\xa0\x80", b"\n", b"\r", b'"', b"{", b"}", b"[" * 500, b",", b"null", b"9" * 5000, b"")


def value(found: Any, rng: random.Random) -> Any:
    """A copy of parsed JSON in which one to three places hold something else, are gone, twice or under another name."""
    found = copy.deepcopy(found)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        found = _changed(found, rng)
    return found


def _changed(found: Any, rng: random.Random) -> Any:
    places = [place for place in _places(found) if place]
    if not places or rng.random() < 0.02:
        return copy.deepcopy(rng.choice(ODD))
    *way, last = rng.choice(places)
    parent = found
    for step in way:
        parent = parent[step]
    act = rng.randrange(4) if isinstance(parent, dict) else rng.randrange(3)
    if act == 0:
        del parent[last]
    elif act == 1 and isinstance(parent, list):
        parent.insert(last, copy.deepcopy(parent[last]))
    elif act == 3:
        parent[f"{last}{rng.choice(('', ' ', 's', '_'))}"] = parent.pop(last)
    else:
        parent[last] = copy.deepcopy(rng.choice(ODD))
    return found


def _places(found: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The ways to all values in parsed JSON."""
    parts = found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else ()
    return [way, *(place for step, part in parts for place in _places(part, (*way, step)))]


def raw(found: bytes, rng: random.Random) -> bytes:
    """Bytes of which one to four places are flipped, cut, doubled, or have something else put in."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = rng.randrange(len(found) + 1)
        act = rng.randrange(5)
        if act == 0 and place < len(found):
            found = found[:place] + bytes([found[place] ^ (1 << rng.randrange(8))]) + found[place + 1 :]
        elif act == 1:
            found = found[:place]
        elif act == 2:
            found = found[:place] + found[place + rng.randrange(1, 64) :]
        elif act == 3:
            found = found[:place] + found[max(0, place - rng.randrange(1, 64)) :]
        else:
            found = found[:place] + rng.choice(BYTES) + found[place:]
    return found


def text(found: Any, rng: random.Random) -> bytes:
    """Mutated JSON as bytes: mostly of another value, else of other bytes."""
    if rng.random() < 0.25:
        return raw(json.dumps(found).encode(), rng)
    return json.dumps(value(found, rng)).encode()
