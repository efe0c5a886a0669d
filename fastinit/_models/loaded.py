"""Parameters that transformers has loaded from a checkpoint."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from fastinit._models.names import Named
from fastinit._models.notes import outside

# It marks modules, too, but these when it has initialised them.
FLAG = "_is_hf_initialized"


def warn_of_loaded(parameters: Mapping[str, Named]) -> None:
    """Warn that loaded values are about to be overwritten."""
    found = [name for name, named in parameters.items() if getattr(named.tensor, FLAG, False)]
    if not found:
        return
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    warnings.warn(
        f"fastinit.initialize_: overwrites what was loaded from a checkpoint: "
        f"{', '.join(found[:5])}{more}; argument 'skip' keeps it",
        UserWarning,
        stacklevel=outside(),
    )
