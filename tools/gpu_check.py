"""Build with CUDA, test, sanitize and measure on a machine with a GPU: ``make gpu-check``.

Runs unattended, with the interpreter that runs this file and what it has: no environment is made
and nothing is fetched. A GPU may be lent for a quarter of an hour only, so the stages come in the
order of what one would regret most to miss: the build for the GPU at hand, the bits of every
kernel, the headline figures, the sanitizer on the smallest cases; then the other tests, the long
tables and the processor. After every stage the result folder, ``benchmarks/results/<gpu>/``, says
what has been found so far, in seven files:

    check.json  check.md      every stage: what it found, and how its output ended if it failed
    gpu.json    gpu.md  .png  the benchmarks on the GPU
    cpu.json    cpu.md        the benchmarks on the processor beside it

``--budget S`` bounds everything. A second run goes on: it repeats what has not passed yet, or what
was run on other sources. Whole logs are in ``build/gpu-check``. Exit status: 0 if everything asked
for passed, 1 if something failed, 2 if something could not be run here (no device, no sanitizer, no
time).
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
import provenance  # noqa: E402

LOGS = ROOT / "build" / "gpu-check"
LIMIT_S = 460.0  # of a stage
LEAST_S = 25.0  # with less left a stage is not begun
GRACE_S = 12.0  # to end in after an interrupt, which lets pytest say what it has
PASSED, FAILED, LATE, IMPOSSIBLE = "passed", "failed", "out of time", "not possible here"
PROBE = """
import json, sys
facts = {"python": sys.version.split()[0], "device": None}
try:
    import torch
    facts |= {"torch": torch.__version__, "cuda of torch": torch.version.cuda}
    if torch.cuda.is_available():
        facts["device"] = torch.cuda.get_device_name(0)
        facts["capability"] = "%d.%d" % torch.cuda.get_device_capability(0)
except Exception as error:
    facts["error"] = repr(error)
print(json.dumps(facts))
"""
CAPABILITIES = "from fastinit import _C; print(*_C.capabilities())"


@dataclasses.dataclass(frozen=True)
class Stage:
    """One command, in its own process group, and what its output means.

    `impossible` is a pattern in the output of a failed command that shows that this machine cannot
    run it at all.
    """

    name: str
    command: tuple[str, ...]
    variables: dict[str, str] = dataclasses.field(default_factory=dict)
    needs_device: bool = False
    impossible: str = ""
    limit: float = LIMIT_S

    @property
    def group(self) -> str:
        """What --stages names: "cpu-tests" for "cpu-tests-avx2"."""
        return next(g for g in GROUPS if self.name.startswith(g))


GROUPS = ("build", "bits", "headline", "sanitizer", "tests", "bench-gpu", "cpu-tests", "bench-cpu")


def say(text: str) -> None:
    print(f"gpu-check: {text}", flush=True)


# ---- what is here -------------------------------------------------------------------------------


def probe() -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True)
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return facts


def sources() -> str:
    """A digest of everything that a stage depends on."""
    digest = hashlib.sha256()
    for folder in ("csrc", "fastinit", "tests", "benchmarks", "tools"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".pyi", ".h", ".cpp", ".cu", ".cuh", ".inl", ".txt"):
                digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    digest.update((ROOT / "setup.py").read_bytes())
    return digest.hexdigest()[:16]


def environment() -> dict[str, Any]:
    return {
        "commit": provenance.commit(),
        "sources": sources(),
        **probe(),
        "driver": provenance.driver(),
        "logical processors": os.cpu_count(),
    }


def folder_name(device: str | None) -> str:
    """NVIDIA H200 -> nvidia-h200."""
    return re.sub(r"[^a-z0-9]+", "-", (device or "no GPU").lower()).strip("-")


# ---- the stages ---------------------------------------------------------------------------------


def pytest(*words: str) -> tuple[str, ...]:
    short = ("--tb=short", "--maxfail=30")
    return (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *short, *words)


BITS = ("tests/cuda/test_cuda_bits.py", "tests/cuda/test_cuda_orthogonal.py")


def run_cuda(out: Path, *words: str) -> tuple[str, ...]:
    """The benchmark on the GPU; its runs add to one set of files."""
    files = [("--json", "gpu.json"), ("--markdown", "gpu.md"), ("--plot", "gpu.png")]
    saved = [word for option, name in files for word in (option, str(out / name))]
    return (sys.executable, f"{ROOT / 'benchmarks' / 'run_cuda.py'}", *words, *saved)


def sanitizer(tool: str, cases: str, limit: float) -> Stage:
    command = (
        of_the_toolkit("compute-sanitizer"),
        *("--error-exitcode", "86", "--target-processes", "all", "--tool", tool),
        *(sys.executable, "tests/support/cuda_small_cases.py", cases),
    )
    return Stage(
        f"sanitizer-{cases}-{tool}",
        command,
        # Each tensor in an allocation of its own, so that what lies beside it is seen.
        {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
        needs_device=True,
        impossible=r"Device not supported|No supported devices|LibraryNotLoaded"
        r"|Unable to initialize",
        limit=limit,
    )


def stages(out: Path, capabilities: Sequence[str]) -> list[Stage]:
    """In order of what one would regret most to miss."""
    python, cuda = sys.executable, os.environ.get("FASTINIT_CUDA", "1")
    rest = [f"--ignore={path}" for path in BITS]
    found = [
        Stage("build", (python, "setup.py", "build_ext", "--inplace"), {"FASTINIT_CUDA": cuda}),
        Stage("bits", pytest("-m", "cuda", *BITS), needs_device=True, limit=90.0),
        Stage(
            "headline",
            run_cuda(out, "--headline", "--budget", "100"),
            needs_device=True,
            limit=120.0,
        ),
        sanitizer("memcheck", "smallest", 90.0),
        sanitizer("racecheck", "smallest", 90.0),
        Stage("tests", pytest("-m", "cuda", *rest, "tests"), needs_device=True, limit=180.0),
        Stage("bench-gpu", run_cuda(out, "--budget", "330"), needs_device=True),
    ]
    found += [sanitizer(tool, "all", LIMIT_S) for tool in ("memcheck", "racecheck", "initcheck")]
    for capability in reversed(capabilities):  # the best first
        variables = {"FASTINIT_CPU_CAPABILITY": capability}
        words = pytest("-m", "not cuda", "tests")
        found.append(Stage(f"cpu-tests-{capability}", words, variables))
    results = ("--json", str(out / "cpu.json"), "--markdown", str(out / "cpu.md"))
    command = (python, f"{ROOT / 'benchmarks' / 'run.py'}", "--budget", "200", *results)
    return [*found, Stage("bench-cpu", command)]


def environment_of(stage: Stage) -> dict[str, str]:
    variables = {**os.environ, **stage.variables, "PYTHONUNBUFFERED": "1"}
    variables["FASTINIT_COMMIT"] = provenance.commit()
    variables["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    )
    return variables


def run(stage: Stage, limit: float, log: Path) -> dict[str, Any]:
    """Run a stage to its end or to the limit; what it printed is in the log either way."""
    log.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    late = False
    with log.open("w") as file:
        process = subprocess.Popen(
            stage.command,
            cwd=ROOT,
            env=environment_of(stage),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # Whoever runs this in the background has it ignored; a stage is to end by it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        for wait, number in ((limit, signal.SIGINT), (GRACE_S, signal.SIGKILL), (60.0, None)):
            try:
                process.wait(wait)
                break
            except subprocess.TimeoutExpired:
                late = True
                if number is not None:
                    os.killpg(process.pid, number)
    # Where this checkout lies is nobody's business: results are committed.
    text = log.read_text(errors="replace").replace(f"{ROOT}{os.sep}", "")
    lines = text.strip().splitlines()
    state = LATE if late else PASSED if process.returncode == 0 else FAILED
    if state == FAILED and stage.impossible and re.search(stage.impossible, text):
        state = IMPOSSIBLE
    return {
        "state": state,
        "status": process.returncode,
        "seconds": round(time.monotonic() - began, 1),
        "command": said(stage.command),
        "last line": lines[-1] if lines else "",
        "end": [] if state == PASSED else lines[-150:],
    }


def said(command: Sequence[str]) -> str:
    """Write a command without where this checkout and its program lie."""
    program, *words = command
    return " ".join([Path(program).name, *words]).replace(f"{ROOT}{os.sep}", "")


def refusal(stage: Stage, facts: dict[str, Any]) -> str:
    """Why a stage cannot be tried at all, or nothing."""
    if stage.needs_device and facts.get("device") is None:
        return "there is no CUDA device"
    if stage.needs_device and shutil.which(stage.command[0]) is None:
        return f"there is no {stage.command[0]}"
    return ""


def of_the_toolkit(name: str) -> str:
    """A program of the CUDA toolkit: its path if that is found, else its name."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    places = [os.environ.get("PATH", ""), *(str(Path(home, "bin")) for home in homes if home)]
    return shutil.which(name, path=os.pathsep.join(places)) or name


# ---- results ------------------------------------------------------------------------------------


class Results:
    """What is known so far, saved after each stage."""

    def __init__(self, out: Path, facts: dict[str, Any], fresh: bool) -> None:
        self.path = out / "check.json"
        self.facts = facts
        self.found: dict[str, dict[str, Any]] = {}
        out.mkdir(parents=True, exist_ok=True)
        if self.path.exists() and not fresh:
            self.found = json.loads(self.path.read_text()).get("stages", {})

    def done(self, stage: Stage) -> bool:
        """Whether it passed before, on these sources."""
        found = self.found.get(stage.name, {})
        return found.get("state") == PASSED and found.get("sources") == self.facts["sources"]

    def add(self, stage: Stage, found: dict[str, Any]) -> None:
        now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
        kept = {name: self.facts.get(name) for name in ("commit", "sources")}
        self.found[stage.name] = {**found, **kept, "date": now}
        self.save()

    def save(self) -> None:
        document = {"environment": self.facts, "stages": self.found}
        self.path.write_text(json.dumps(document, indent=1) + "\n")
        self.path.with_suffix(".md").write_text(self.markdown())

    def markdown(self) -> str:
        lines = [f"- {name}: {value}" for name, value in self.facts.items()]
        lines += ["", "| stage | result | seconds | last line |", "| --- | --- | --- | --- |"]
        for name, found in self.found.items():
            last = str(found["last line"]).replace("|", "\\|")
            lines.append(f"| {name} | {found['state']} | {found['seconds']} | {last} |")
        for name, found in self.found.items():
            if found["end"]:
                lines += ["", f"### {name}: {found['state']}", "", "```", *found["end"], "```"]
        return "\n".join([*lines, ""])


# ---- the run ------------------------------------------------------------------------------------


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--stages",
        default=os.environ.get("STAGES") or ",".join(GROUPS),
        metavar="A,B",
        help=f"which of {', '.join(GROUPS)} (also $STAGES); a single one by its full name too",
    )
    parser.add_argument("--budget", type=float, metavar="S", help="seconds for everything")
    parser.add_argument("--limit", type=float, default=LIMIT_S, metavar="S", help="of one stage")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the result folder")
    parser.add_argument("--fresh", action="store_true", help="forget what passed before")
    parser.add_argument("--dry-run", action="store_true", help="print the commands only")
    options = parser.parse_args(argv)
    options.stages = [name for name in re.split(r"[ ,]+", options.stages) if name]
    wrong = [name for name in options.stages if not name.startswith(GROUPS)]
    if wrong:
        parser.error(f"no stage {', '.join(wrong)}; there are {', '.join(GROUPS)}")
    return options


def go_through(
    todo: Sequence[Stage],
    results: Results,
    options: argparse.Namespace,
    end: float,
    logs: Path = LOGS,
) -> list[str]:
    """Run stages until the time is over; their states, in order."""
    states = []
    for stage in todo:
        left = end - time.monotonic()
        why = refusal(stage, results.facts)
        if results.done(stage):
            say(f"{stage.name}: passed before")
            states.append(PASSED)
            continue
        if why or left < min(LEAST_S, options.limit):
            state = IMPOSSIBLE if why else LATE
            found = {"state": state, "seconds": 0, "last line": why or "no time left", "end": []}
        else:
            say(f"{stage.name}: {' '.join(stage.command)}")
            limit = min(options.limit, stage.limit, left - GRACE_S)
            found = run(stage, limit, logs / f"{stage.name}.log")
        results.add(stage, found)
        say(f"{stage.name}: {found['state']}, {found['seconds']} s: {found['last line']}")
        states.append(str(found["state"]))
        if stage.name == "build" and found["state"] != PASSED:
            say("nothing else can run without the build")
            break
    return states


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    end = time.monotonic() + (options.budget or float("inf"))
    facts = environment()
    out = options.out or ROOT / "benchmarks" / "results" / folder_name(facts.get("device"))
    for name, value in facts.items():
        say(f"{name}: {value}")

    def chosen(capabilities: Sequence[str]) -> list[Stage]:
        wanted = options.stages
        found = stages(out, capabilities)
        return [s for s in found if s.group in wanted or s.name in wanted]

    if options.dry_run:
        for stage in chosen(["scalar", "avx2", "avx512"]):
            given = [f"{name}={value}" for name, value in stage.variables.items()]
            why = refusal(stage, facts)
            print(" ".join([f"{stage.name}:", *given, *stage.command]) + (why and f"   [{why}]"))
        return 0

    results = Results(out, facts, options.fresh)
    first = [stage for stage in chosen([]) if stage.name == "build"]
    states = go_through(first, results, options, end)
    if all(state == PASSED for state in states):
        # Only the built extension knows what this processor has.
        names = provenance.output([sys.executable, "-c", CAPABILITIES]).split()
        rest = [stage for stage in chosen(names) if stage.name != "build"]
        states += go_through(rest, results, options, end)
    say(f"results in {out}")
    return 1 if FAILED in states else 2 if {LATE, IMPOSSIBLE} & set(states) else 0


if __name__ == "__main__":
    sys.exit(main())
