"""The score of the last `make mutants`: how many changes of the core its tests have noticed."""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

_MUTANTS = Path(__file__).parents[1] / "mutants" / "consumer" / "core"
# As mutmut keeps them: the exit codes of the tests. 1 is a test that failed, 3 an internal error
# of pytest, 37 a type that does not fit, the others a time that was up (mutmut's own, or SIGXCPU).
# All else (no test, skipped, interrupted, killed for its memory) shows nothing.
_NOTICED = frozenset({1, 3, 37, 36, -24, 24, 152, 255})


def main() -> int:
    """Print the score by module; 1 if it is too low."""
    parser = argparse.ArgumentParser(prog="make mutants")
    parser.add_argument("--score-min", type=float, required=True)
    options = parser.parse_args()
    total: Counter[str] = Counter()
    for path in sorted(_MUTANTS.glob("*.py.meta")):
        codes = json.loads(path.read_text())["exit_code_by_key"]
        found = Counter(
            "not run" if code is None
            else "noticed" if code in _NOTICED
            else "survived"
            for code in codes.values()
        )  # fmt: skip
        total += found
        print(f"{path.name.removesuffix('.py.meta'):12}", _told(found))
    print(f"{'all':12}", _told(total))
    return 0 if _score(total) >= options.score_min and not total["not run"] else 1


def _score(found: Counter[str]) -> float:
    return found["noticed"] / ((found["noticed"] + found["survived"]) or 1)


def _told(found: Counter[str]) -> str:
    return (
        f"{_score(found):7.1%} of {found['noticed'] + found['survived']:5,} noticed,"
        f" {found['survived']:4,} survived, {found['not run']:5,} not run"
    )


if __name__ == "__main__":
    sys.exit(main())
