"""Parts of a page that a script makes alive: their data inlined, so that nothing is asked of a network."""

import json
from collections.abc import Mapping
from typing import Any

from IPython.display import HTML, display


def embed(part: str, data: Mapping[str, Any]) -> None:
    """Display the place of a live part, empty until `_static/live_<part>.js` fills it from this data."""
    text = json.dumps(data, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    inlined = text.replace("<", "\\u003c")  # in JSON a `<` stands in strings alone, and here it could end the script
    script = f'<script type="application/json">{inlined}</script>'
    display(HTML(f'<div class="live" data-part="{part}">{script}</div>'))
