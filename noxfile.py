"""The tests under every supported Python, each in a fresh environment: ``python -m nox``.

python -m nox                    the fast tests under all Pythons that are installed here
python -m nox -s tests-3.10      under one of them
python -m nox -- -m ""           all tests; what follows -- goes to pytest
python -m nox -s wheel           build an sdist, a wheel from it, and try the wheel without a compiler
python -m nox -s lint            format, lint and spelling
"""

from __future__ import annotations

from pathlib import Path

import nox

nox.options.sessions = ["tests"]


@nox.session(python=["3.10", "3.11", "3.12", "3.13"])
def tests(session: nox.Session) -> None:
    """Install from the sources, and run the fast tests."""
    session.install(".[test]")
    session.run("python", "-m", "pytest", "-q", "-m", "not slow", *session.posargs)


@nox.session(python=["3.10", "3.11", "3.12", "3.13"])
def wheel(session: nox.Session) -> None:
    """What `pip install nucel` would get: the wheel that is built from the sdist, where no compiler is found."""
    session.install("build")
    folder = Path(session.create_tmp())
    session.run("python", "-m", "build", "--outdir", str(folder), ".")
    (built,) = folder.glob("nucel-*.whl")
    session.install(str(built), env={"CC": "false", "CXX": "false"})
    session.chdir(folder)
    session.run("python", "-c", "import nucel; print(nucel.__version__, nucel.Genome)")
    session.run("nucel", "--help")


@nox.session
def lint(session: nox.Session) -> None:
    """Format, lint and spelling."""
    session.install(".[lint]")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("bash", "-c", "git ls-files -z | xargs -0 codespell --ignore-words-list=anc", external=True)
