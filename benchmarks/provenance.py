"""Where figures come from: the commit and the driver. The standard library is all it needs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def output(command: Sequence[str]) -> str:
    """What a command prints, or nothing if it does not run."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def commit() -> str:
    """The commit of this tree: $FASTINIT_COMMIT, the file COMMIT, or what git says."""
    if given := os.environ.get("FASTINIT_COMMIT"):
        return given
    if (ROOT / "COMMIT").exists():
        return (ROOT / "COMMIT").read_text().strip()
    git = ["git", "-c", f"safe.directory={ROOT}"]
    head = output([*git, "rev-parse", "HEAD"])
    changed = output([*git, "status", "--porcelain", "--untracked-files=no"])
    return f"{head} with changes" if head and changed else head or "unknown"


def driver() -> str:
    """The release of the NVIDIA driver."""
    said = output(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"])
    return said.partition("\n")[0] or "unknown"
