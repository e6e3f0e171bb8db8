"""Sessions of nox, each with what it does in its docstring; those without a name given are lint, types, tests, docs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import nox

nox.options.sessions = ["lint", "types", "tests", "docs"]
nox.options.reuse_existing_virtualenvs = True

HERE = Path(__file__).parent
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
HOSTS = ("transformers", "keras", "skorch", "lightning")
"""Extras that bring a framework in which people train."""

LOWER_BOUND = re.compile(r"^(?P<name>[A-Za-z0-9_.-]+)(\[[^]]*\])?>=(?P<version>[0-9.]+)")


def _install(session: nox.Session, *extras: str) -> None:
    session.install("-c", "constraints.txt", "-e", f".[{','.join(extras)}]")


@nox.session
def tests(session: nox.Session) -> None:
    """The suite, with branch coverage."""
    _install(session, "test")
    session.run("pytest", "-n", "2", "--cov", "--cov-report=term", *session.posargs, env=ONE_THREAD)


@nox.session
def hosts(session: nox.Session) -> None:
    """The trainers of other frameworks, Keras's on each backend, with the real packages: large, and so apart."""
    session.install("-c", "constraints.txt", "-e", f".[test,{','.join(HOSTS)}]", "jax", "tensorflow-cpu")
    for backend in ("torch", "tensorflow", "jax"):
        chosen = ["tests"] if backend == "torch" else ["tests/hosts/test_keras.py", "tests/hosts/test_pauses.py"]
        environment = {**ONE_THREAD, "KERAS_BACKEND": backend}
        session.run("pytest", "-n", "2", "-m", "hosts", *(session.posargs or chosen), env=environment)


@nox.session
def search(session: nox.Session) -> None:
    """The property tests on new examples, a thousand where a test names no number; the suite runs the same ones."""
    _install(session, "test")
    session.run(
        "pytest", "-n", "2", "-m", "hypothesis", "--hypothesis-profile=search", *session.posargs, env=ONE_THREAD
    )


@nox.session
def faults(session: nox.Session) -> None:
    """The catalogue of faults, against the real command, the slow ones included; writes docs/faults.md.

    ``LRTUNE_KILLS=500`` kills that often at random, ``LRTUNE_BREAKS=1`` breaks every system call of a search once.
    """
    _install(session, "test")
    log = Path(session.create_tmp()).resolve() / "faults.jsonl"
    log.unlink(missing_ok=True)
    paths = session.posargs or ["-n", "2", "tests/faults"]
    environment = {**ONE_THREAD, "LRTUNE_FAULTS_LOG": str(log)}
    session.run("pytest", "-m", "faults", *paths, env=environment, success_codes=[0, 1])
    session.run("python", str(HERE / "tests" / "faults" / "table.py"), str(log))


@nox.session
def notebook(session: nox.Session) -> None:
    """A real notebook: its kernel, the live display, and the page that it makes."""
    _install(session, "test")
    session.install("ipykernel", "nbclient", "nbconvert")
    session.run("pytest", "-n", "0", "-m", "notebook", "tests/integration/test_notebook.py", *session.posargs)


@nox.session
def snippets(session: nox.Session) -> None:
    """The lines to paste, and ``lrtune explain``, in the real packages; writes docs/hosts.md."""
    _install(session, "test")
    session.install("-c", "constraints.txt", "-r", str(HERE / "tests" / "hosts" / "requirements.txt"))
    # These ask for a torchvision, a torch or a CUDA compiler that their schedules do without.
    session.install("--no-deps", "-r", str(HERE / "tests" / "hosts" / "without-dependencies.txt"))
    session.run(
        "pytest",
        *("-n0", "-m", "slow", "tests/hosts/test_pasted.py", "tests/hosts/test_explained.py", *session.posargs),
        env={**ONE_THREAD, "LRTUNE_WRITE_HOSTS": "1"},
    )


@nox.session
def lint(session: nox.Session) -> None:
    """Every rule of ruff, and its formatter."""
    _install(session, "dev")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """mypy, strict."""
    _install(session, "dev")
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """The pages, with the reference from the docstrings; a broken link or an unlisted page fails."""
    _install(session, "docs")
    session.run("python", "docs/architecture.py", "--check")
    session.run("python", "docs/generate_cli.py", "--check")
    session.run("mkdocs", "build", "--strict", "--site-dir", "build/site")


@nox.session
def bench(session: nox.Session) -> None:
    """The benchmarks: all of them, or those named, e.g. ``nox -s bench -- range_test``."""
    _install(session, "test")
    folder = HERE / "studies" / "benchmarks"
    names = session.posargs or sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))
    for name in names:
        session.run("python", str(folder / f"{name}.py"), env=ONE_THREAD)


@nox.session
def minimums(session: nox.Session) -> None:
    """The suite at the lowest versions that pyproject.toml allows."""
    project = tomllib.loads((HERE / "pyproject.toml").read_text())["project"]
    bounds = filter(None, map(LOWER_BOUND.match, project["dependencies"]))
    lowest = Path(session.create_tmp()) / "lowest.txt"
    lowest.write_text("".join(f"{bound['name']}=={bound['version']}\n" for bound in bounds))
    session.install("-c", str(lowest), "-e", ".[test]")
    session.run("pytest", "-n", "2", *session.posargs, env=ONE_THREAD)
