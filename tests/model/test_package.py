"""What `import nucel` promises: one root of all errors, one version, types."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import nucel
from nucel.genome.extension import require_same_version
from nucel.runtime import errors

ROOT = Path(__file__).parents[2]


def test_every_error_of_ours_has_one_root_and_is_public():
    ours = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(ours) == 7
    for kind in ours:
        assert issubclass(kind, nucel.NucelError)
        assert getattr(nucel, kind.__name__) is kind and kind.__name__ in nucel.__all__


def test_all_names_are_there_once():
    assert len(nucel.__all__) == len(set(nucel.__all__))
    assert all(hasattr(nucel, name) for name in nucel.__all__)


def test_the_version_is_that_of_pyproject():
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE).group(1)
    assert nucel.__version__ == version


def test_an_extension_of_another_version_is_refused():
    require_same_version(nucel.__version__)
    with pytest.raises(ImportError, match=r"nucel is version 0.*_nucel.*is version 9\.9\.9.*pip install"):
        require_same_version("9.9.9")


def test_a_missing_extension_is_named_with_what_to_do():
    code = "import sys; sys.modules['_nucel'] = None; import nucel"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and last.startswith("ImportError: ")
    assert "compiled sampler, _nucel" in last and "C++17 compiler" in last


def test_the_package_says_that_it_is_typed():
    assert (Path(nucel.__file__).parent / "py.typed").is_file()
