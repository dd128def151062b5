"""How a verb ends on the command line: a summary on stdout, or a reason on stderr."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from rich.console import Console


def run(verb: Callable[[], dict[str, Any]], console: Console, *refusals: type[Exception]) -> int:
    """Carry out a verb; its summary is one JSON object on the last line of stdout.

    Args:
        refusals: what is told as a reason and not as a traceback, besides OSError and ValueError (ConfigError,
            InputError, GenomeError and HubError are ValueErrors).

    Returns:
        the exit status: 0, or 2 for what was refused.
    """
    try:
        summary = verb()
    except (ValueError, OSError, *refusals) as error:
        console.print(f"error: {error}", style="red", soft_wrap=True, markup=False)
        return 2
    print(json.dumps(summary))
    return 0
