"""Put the tables of a GPU round into the README, between its markers.

python -m benchmarks.gpu.readme_results benchmarks/results
"""

from __future__ import annotations

import argparse
from pathlib import Path

BEGIN, END = "<!-- gpu results: begin -->", "<!-- gpu results: end -->"
SECTIONS = {
    "train.md": "Training and embedding",
    "profile.md": "Where a step's time goes",
    "attention.md": "Attention",
    "rtd_loss.md": "Replaced-token-detection loss",
}


def with_results(readme: str, folder: Path) -> str:
    """The README with the text between its markers replaced by the tables in a folder.

    Raises:
        ValueError: the folder holds no table, or the README lacks the markers.
    """
    tables = [
        f"### {title}\n\n{(folder / name).read_text(encoding='utf-8').strip()}"
        for name, title in SECTIONS.items()
        if (folder / name).is_file()
    ]
    if not tables:
        raise ValueError(f"{folder} holds none of {', '.join(SECTIONS)}; run benchmarks/gpu/round.sh on a GPU first")
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the README lacks {BEGIN} or {END}")
    return "\n\n".join([before + BEGIN, *tables, END + after])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="folder that round.sh's archive was unpacked to")
    parser.add_argument("--readme", type=Path, default=Path(__file__).parents[2] / "README.md")
    options = parser.parse_args()
    try:
        text = with_results(options.readme.read_text(encoding="utf-8"), options.results)
    except ValueError as error:
        parser.error(str(error))
    options.readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
