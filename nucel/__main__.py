"""`nucel VERB ...` and `python -m nucel VERB ...`: the same as `python -m nucel.VERB ...`."""

import runpy
import sys
from importlib.metadata import version

VERBS = ("train", "embed", "finetune", "predict", "probe", "score", "suite", "plot", "genome", "scan", "interpret")


def main() -> None:
    """Hand the remaining words to the verb."""
    verb = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if verb in VERBS:
        sys.argv[1:] = sys.argv[2:]
        runpy.run_module(f"nucel.{verb}", run_name="__main__", alter_sys=True)
    elif verb == "--version":
        print(f"nucel {version('nucel')}")
    elif verb in ("-h", "--help"):
        print(f"usage: nucel VERB ...\n\nVERB is one of {', '.join(VERBS)}; `nucel VERB --help` explains it.")
    else:
        sys.exit(f"error: {verb!r} is not a verb; give one of {', '.join(VERBS)}")


if __name__ == "__main__":
    main()
