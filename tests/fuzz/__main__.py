"""Coverage-guided fuzzing of decoding and folding: `make fuzz SECONDS=60`.

An input is a record's value. Whatever it is, nothing is raised, the outcomes are the same each
time, every call is one that Postgres takes, and calls fold alike in any order. What the fuzzer
finds interesting is kept in `.fuzz/corpus` and is where the next run begins; an input that
breaks a rule is written to `.fuzz/broken-*`, and `make fuzz INPUT=path` repeats it alone.
"""

import argparse
import sys
from pathlib import Path

FOLDER = Path(".fuzz")
# The seeds past this teach nothing about bytes, and slow all others down.
INPUT_BYTES_MAX = 16 * 1024


def main() -> None:
    """Fuzz for a time, or repeat one input."""
    parser = argparse.ArgumentParser(prog="make fuzz", description="Fuzz decode and fold.")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--input", type=Path, help="repeat this input alone")
    options = parser.parse_args()
    try:
        import atheris  # noqa: PLC0415 - in a group of its own
    except ImportError:
        sys.exit("make fuzz: atheris has no wheel for this machine; it has for Linux on x86-64")
    # Only what is first imported here is watched for coverage.
    with atheris.instrument_imports(include=["consumer.core", "schemas"]):
        from tests.core.outcomes import assert_outcomes  # noqa: PLC0415 - to be instrumented
        from tests.fuzz.mutator import mutated  # noqa: PLC0415 - imports the core
        from tests.fuzz.seeds import field_names, write_seeds  # noqa: PLC0415 - imports the core

    if options.input:
        assert_outcomes(options.input.read_bytes())
        print(f"{options.input}: nothing broken")
        return
    corpus = FOLDER / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    write_seeds(FOLDER / "seeds", INPUT_BYTES_MAX)
    dictionary = FOLDER / "names"
    dictionary.write_text("".join(f'"\\"{name}\\""\n' for name in field_names()))

    def mutate(value: bytes, bytes_max: int, seed: int) -> bytes:
        """Half of the time a value as JSON, else its bytes."""
        found = mutated(value, seed)
        if found is None or len(found) > bytes_max:
            return bytes(atheris.Mutate(value, bytes_max))
        return found

    atheris.Setup(
        [
            sys.argv[0],
            f"-max_total_time={options.seconds}",
            f"-max_len={INPUT_BYTES_MAX}",
            f"-dict={dictionary}",
            f"-artifact_prefix={FOLDER}/broken-",
            "-print_final_stats=1",
            str(corpus),
            str(FOLDER / "seeds"),
        ],
        assert_outcomes,
        custom_mutator=mutate,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
