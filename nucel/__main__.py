"""`nucel VERB ...` and `python -m nucel VERB ...`: the same as `python -m nucel.VERB ...`."""

import ast
import runpy
import sys
from importlib.metadata import version
from pathlib import Path

VERBS = (
    "train", "embed", "finetune", "predict", "probe", "score", "suite", "report", "plot", "genome", "scan", "interpret",
)  # fmt: skip


def purpose(verb: str) -> str:
    """What a verb does, as the first line of its file says; read and not imported, which would take seconds."""
    package = Path(__file__).parent
    file = package / f"{verb}.py"
    source = file if file.exists() else package / verb / "__main__.py"
    text = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
    return text.partition(": ``")[0]


def main() -> None:
    """Hand the remaining words to the verb."""
    verb = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if verb in VERBS:
        sys.argv[1:] = sys.argv[2:]
        runpy.run_module(f"nucel.{verb}", run_name="__main__", alter_sys=True)
    elif verb == "--version":
        print(f"nucel {version('nucel')}")
    elif verb in ("-h", "--help"):
        lines = "\n".join(f"  {name:<10} {purpose(name)}" for name in VERBS)
        print(f"usage: nucel VERB ...\n\n{lines}\n\n`nucel VERB --help` explains a verb, and ends with examples.")
    else:
        sys.exit(f"error: {verb!r} is not a verb; give one of {', '.join(VERBS)}")


if __name__ == "__main__":
    main()
