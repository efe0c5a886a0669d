"""Small changes to a Python module, one after another, and which of them no test notices.

    make mutation MODULE=fastinit/initializers/fans.py TESTS=tests/initializers

The work is Cosmic Ray's. It changes files where they lie, so it is given a copy of the project with
the extension as it was built. A survivor is a test that is missing, or a change without effect.
For C++ there is no such tool here: see CONTRIBUTING.md.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "mutation"
NOT_COPIED = shutil.ignore_patterns(
    ".git", "build", "dist", ".venv*", "__pycache__", ".*_cache", ".hypothesis", "*.egg-info"
)
# Without these a module has hundreds of changes that say what the others say, or do nothing: `|`
# stands between types, and `is` between numbers is `==` for small ones.
LEFT_OUT = (
    r"core/ReplaceBinaryOperator_BitOr_\w+",
    r"core/ReplaceBinaryOperator_\w+_(RShift|LShift|BitOr|BitAnd|BitXor|Pow|Mod|FloorDiv)$",
    r"core/ReplaceComparisonOperator_(Eq|NotEq|Lt|LtE|Gt|GtE)_(Is|IsNot)$",
)


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit("usage: make mutation MODULE=fastinit/....py TESTS=tests/...")
    module, tests = sys.argv[1], sys.argv[2:]
    shutil.rmtree(FOLDER, ignore_errors=True)
    shutil.copytree(ROOT, FOLDER, ignore=NOT_COPIED)
    environment = {**os.environ, "PYTHONPATH": str(FOLDER), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    start = time.monotonic()
    if subprocess.run(command, cwd=FOLDER, env=environment, check=False).returncode:
        sys.exit("mutation: the tests fail without a change, too")
    settings = {
        "module-path": module,
        "timeout": 10 + 5 * (time.monotonic() - start),
        "excluded-modules": [],
        "test-command": shlex.join(command),
    }
    config = ["[cosmic-ray]", *(f"{key} = {json.dumps(value)}" for key, value in settings.items())]
    config += ["[cosmic-ray.distributor]", 'name = "local"']
    config += ["[cosmic-ray.filters.operators-filter]"]
    config += [f"exclude-operators = {json.dumps(LEFT_OUT)}"]
    (FOLDER / "mutation.toml").write_text("\n".join(config) + "\n", encoding="utf-8")
    for words in (
        "cli init mutation.toml session.sqlite",
        "tools.filters.operators_filter session.sqlite mutation.toml",
        "cli exec mutation.toml session.sqlite",
        "tools.report --surviving-only --show-diff session.sqlite",
    ):
        line = [sys.executable, "-m", *f"cosmic_ray.{words}".split()]
        done = subprocess.run(line, cwd=FOLDER, env=environment, check=False)
        if done.returncode:
            sys.exit(done.returncode)


if __name__ == "__main__":
    main()
