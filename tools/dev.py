"""Find or make a Python that can build and run fastinit, build the extension, then run a command.

    python tools/dev.py GROUP[,GROUP ...] [COMMAND ARG ...]

The Makefile calls this; only the standard library is needed. A GROUP is what is going to be done:
build, test, bench, examples, lint or mutation. In COMMAND the word ``python`` stands for the
interpreter found.

Which interpreter: the one that runs this file, if it has torch. It is used as it is. Packages that
it lacks go into an overlay, a virtual environment in this folder that sees everything that the
interpreter has, so nothing in it changes and its torch is the one that is used. Without torch,
``.venv`` is made and everything is installed there.

Environment: VENV (folder of that environment, .venv), TORCH_SPEC (what to install there,
torch==2.13.0), TORCH_INDEX (package index to take torch from), PYTHON_EXPLICIT (not empty: the
caller chose this interpreter by name, so complain rather than pass it over), CXX, CXXFLAGS,
FASTINIT_CUDA.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
TORCH_MINIMUM = "torch>=2.10"
TORCH_DEFAULT = "torch==2.13.0"
REQUIREMENTS = {  # group: files in requirements/
    "build": ["build"],
    "test": ["build", "test", "integrations", "matplotlib", "progress", "examples"],
    "bench": ["build", "bench", "integrations"],
    "examples": ["build", "examples"],
    "lint": ["lint"],
    "mutation": ["mutation"],
}
BUILD_VARIABLES = ["CXX", "CXXFLAGS", "CFLAGS", "CPPFLAGS", "LDFLAGS"]
BUILD_VARIABLES += ["FASTINIT_CUDA", "CUDA_HOME", "CUDA_PATH", "TORCH_CUDA_ARCH_LIST"]
PROBE = """
import importlib.metadata as metadata, importlib.util, json, os, sys, sysconfig
def version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
def requires(name):
    return version(name) and metadata.requires(name) or []
packages = {name: version(name) for name in sys.argv[1:]}
torch = importlib.util.find_spec("torch")
if torch is None:
    packages["torch"] = None
elif packages["torch"] is None:
    packages["torch"] = __import__("torch").__version__
print(json.dumps({
    "python": sys.executable, "prefix": sys.prefix, "abi": sysconfig.get_config_var("SOABI"),
    "version": "%d.%d" % sys.version_info[:2], "scripts": sysconfig.get_path("scripts"),
    "purelib": sysconfig.get_path("purelib"), "packages": packages,
    "torch": torch and torch.origin, "torch_asks": requires("torch"),
    "site": [p for p in sys.path if os.path.basename(p) in ("site-packages", "dist-packages")],
}))
"""


def say(message: str) -> None:
    print(f"fastinit: {message}", file=sys.stderr, flush=True)


def fail(message: str) -> NoReturn:
    sys.exit(f"fastinit: {message}")


# What is there ------------------------------------------------------------------------------------


def requirements(groups: list[str]) -> list[str]:
    """Requirement lines of the groups, each once."""
    files = dict.fromkeys(name for group in groups for name in REQUIREMENTS[group])
    lines = [
        line.strip()
        for name in files
        for line in (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    ]
    return list(dict.fromkeys(line for line in lines if line and not line.startswith("#")))


def name_of(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]


def satisfied(requirement: str, version: str | None) -> bool:
    """Whether ``version`` meets a requirement made of ``==``, ``>=`` and ``<``, all we use."""

    def release(text: str) -> list[int]:
        numbers = re.match(r"[\d.]*", text.strip())
        parts = [int(part) for part in (numbers.group() if numbers else "").split(".") if part]
        return parts + [0] * (6 - len(parts))

    if version is None:
        return False
    have = release(version)
    compare = {"==": have.__eq__, ">=": have.__ge__, "<": have.__lt__}
    return all(compare[op](release(v)) for op, v in re.findall(r"(==|>=|<)([^,;]+)", requirement))


def probe(python: str | Path, wanted: list[str]) -> dict | None:
    """What an interpreter is and has, or None if it does not run."""
    names = ["torch", *map(name_of, wanted)]
    command = [str(python), "-c", PROBE, *names]
    try:
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return json.loads(done.stdout.splitlines()[-1])


def missing(env: dict, wanted: list[str]) -> list[str]:
    return [line for line in wanted if not satisfied(line, env["packages"][name_of(line)])]


def torch_problem(env: dict) -> str | None:
    """Why the torch of an interpreter will not do, if so."""
    version = env["packages"]["torch"]
    for spec in filter(None, (TORCH_MINIMUM, os.environ.get("TORCH_SPEC"))):
        if not satisfied(spec, version):
            return f"{env['python']} has torch {version}, but {spec} is asked for"
    return None


# Environments -------------------------------------------------------------------------------------


def make_venv(folder: Path) -> None:
    if folder.exists():  # never cleared from here: it might be anything
        fail(f"{folder} exists, but {folder}/bin/python does not work: remove or rename it")
    say(f"creating {folder}")
    done = subprocess.run([sys.executable, "-m", "venv", str(folder)], check=False)
    if done.returncode:
        fail(
            f"{sys.executable} could not create a virtual environment (see above). "
            "Debian, Ubuntu: apt install python3-venv"
        )


def pip_install(env: dict, arguments: list[str], what: str) -> None:
    say(f"installing {what} into {env['prefix']}")
    python = env["python"]
    if subprocess.run([python, "-c", "import pip"], capture_output=True, check=False).returncode:
        subprocess.run([python, "-m", "ensurepip"], stdout=subprocess.DEVNULL, check=False)
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*command, *arguments], stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        fail(f"pip could not install {what} (see above)")


def install_missing(env: dict, wanted: list[str]) -> dict:
    """Add what ``env`` lacks; its torch, and what that torch asks for, stay as they are."""
    lacking = missing(env, wanted)
    if not lacking:
        return env
    version = env["packages"]["torch"]
    # What torch asks for, too (setuptools<82, for one); constraints may not have extras.
    asked = [line for line in env["torch_asks"] if "extra ==" not in line and "[" not in line]
    constraints = Path(env["prefix"], "fastinit-constraints.txt")
    constraints.write_text("\n".join([f"torch=={version}", *asked]) + "\n")
    names = ", ".join(map(name_of, lacking))
    pip_install(env, ["--constraint", str(constraints), *lacking], names)
    after = probe(env["python"], wanted)
    if after is None or missing(after, wanted) or after["packages"]["torch"] != version:
        fail(f"{env['python']} is not right after installing {names}")
    return after


def overlay(base: dict, wanted: list[str]) -> dict:
    """An environment of our own on top of an interpreter that has torch and must not change."""
    torch = re.sub(r"[^A-Za-z0-9.]", "-", base["packages"]["torch"])
    which = hashlib.sha256(f"{base['prefix']} {base['abi']}".encode()).hexdigest()[:8]
    folder = ROOT / f".venv-over-torch-{torch}-{which}"
    env = probe(folder / "bin/python", wanted)
    if env is None or env["packages"]["torch"] != base["packages"]["torch"]:
        make_venv(folder)
        env = probe(folder / "bin/python", wanted)
        assert env is not None
        # A venv made with --system-site-packages would not see those of another venv. addsitedir
        # appends, and reads the .pth files there too.
        lines = [f"import site; site.addsitedir({path!r})" for path in base["site"]]
        Path(env["purelib"], "fastinit-base.pth").write_text("\n".join(lines) + "\n")
        env = probe(folder / "bin/python", wanted)
        if env is None or env["packages"]["torch"] != base["packages"]["torch"]:
            fail(f"{folder} does not see the torch of {base['python']}")
    return install_missing(env, wanted) | {"below": base["scripts"]}


def own_environment(base: dict, wanted: list[str]) -> dict:
    """The environment VENV, made with the running interpreter, with everything in it."""
    folder = ROOT / (os.environ.get("VENV") or ".venv")
    python = folder / "bin/python"
    env = probe(python, wanted)
    if env is None:
        make_venv(folder)
        env = probe(python, wanted)
        assert env is not None
    name = folder.name
    if os.environ.get("PYTHON_EXPLICIT") and env["version"] != base["version"]:
        fail(
            f"{name} is Python {env['version']}, PYTHON is {base['version']}. "
            f"Keep both: make VENV={name}-{base['version']} PYTHON=..."
        )
    if env["packages"]["torch"] is None:
        spec = os.environ.get("TORCH_SPEC") or TORCH_DEFAULT
        index = os.environ.get("TORCH_INDEX")
        options = ["--index-url", index] if index else []
        pip_install(env, [*options, spec], f"{spec} (once, this may take minutes)")
        env = probe(python, wanted)
        assert env is not None
    if problem := torch_problem(env):
        fail(f"{problem}. Keep both: make VENV={name}-other TORCH_SPEC=...")
    return install_missing(env, wanted)


def environment(groups: list[str]) -> dict:
    wanted = requirements(groups)
    here = probe(sys.executable, wanted)
    if here is None:
        fail(f"{sys.executable} does not work")
    if here["packages"]["torch"] is None:
        return own_environment(here, wanted)
    if problem := torch_problem(here):
        if os.environ.get("PYTHON_EXPLICIT"):
            fail(problem)
        say(f"{problem}: not using it")
        return own_environment(here, wanted)
    if not missing(here, wanted):
        return here
    prefix = Path(here["prefix"])
    ours = prefix.parent == ROOT and prefix.name.startswith(".venv")
    return install_missing(here, wanted) if ours else overlay(here, wanted)


# The extension ------------------------------------------------------------------------------------


def fingerprint(env: dict) -> str:
    """Changes whenever the extension has to be built again."""
    digest = hashlib.sha256()
    for part in (env["torch"], env["packages"]["torch"], env["abi"], *os.uname()[::4]):
        digest.update(f"{part}\0".encode())
    for name in BUILD_VARIABLES:
        digest.update(f"{name}={os.environ.get(name)}\0".encode())
    for path in sorted(p for p in (ROOT / "csrc").rglob("*") if p.is_file()):
        digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    digest.update((ROOT / "setup.py").read_bytes())
    return digest.hexdigest()


def binary_state(env: dict) -> list:
    """Identifies the binary that lies in the package now, however it got there."""
    path = ROOT / "fastinit" / f"_C.{env['abi']}.so"
    stat = path.stat() if path.exists() else None
    return [path.name, stat and stat.st_size, stat and stat.st_mtime_ns]


def build(env: dict, variables: dict[str, str]) -> None:
    stamp = ROOT / "build" / "stamp.json"
    wanted = fingerprint(env)
    now = [wanted, binary_state(env)]
    if stamp.exists() and stamp.read_text() == json.dumps(now) and now[1][1]:
        return
    stamp.unlink(missing_ok=True)
    say(f"building for torch {env['packages']['torch']}, Python {env['version']}")
    command = [env["python"], "setup.py", "build_ext", "--inplace"]
    log = ROOT / "build" / "log.txt"
    with log.open("w") as out:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            check=False,
        )
    text = log.read_text().partition("ninja: build stopped")[0]  # what follows says nothing new
    if done.returncode or "warning:" in text:
        sys.stderr.write(text)
    if done.returncode:
        fail("the extension did not build (see above)")
    sys.stderr.writelines(line for line in text.splitlines(True) if line.startswith("fastinit: "))
    # Sources edited while the compiler ran give a stamp that does not match: built again next time.
    stamp.write_text(json.dumps([wanted, binary_state(env)]))


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """One of us at a time installs or builds."""
    folder = ROOT / "build"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another build")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main() -> None:
    groups, command = "".join(sys.argv[1:2]).split(","), sys.argv[2:]
    if not set(groups) <= set(REQUIREMENTS):
        fail(f"usage: tools/dev.py GROUP[,GROUP] [COMMAND ...]; groups: {', '.join(REQUIREMENTS)}")
    variables = dict(os.environ)
    with locked():
        env = environment(groups)
        scripts = [env["scripts"], env.get("below"), variables.get("PATH")]
        variables["PATH"] = os.pathsep.join(filter(None, scripts))
        paths = filter(None, [str(ROOT), variables.get("PYTHONPATH")])
        variables["PYTHONPATH"] = os.pathsep.join(paths)
        if any("build" in REQUIREMENTS[group] for group in groups):
            build(env, variables)
    if command:
        os.chdir(ROOT)
        program = env["python"] if command[0] == "python" else command[0]
        os.execvpe(program, [program, *command[1:]], variables)


if __name__ == "__main__":
    main()
