"""The fuzzer begins with what holds, and changes what is JSON into JSON."""

import json
from pathlib import Path

from tests.core.outcomes import assert_outcomes
from tests.fuzz.mutator import mutated
from tests.fuzz.seeds import field_names, seeds, write_seeds

CALL = b'{"type": "page", "userId": "jane", "context": {"ip": "::1"}}'


def test_mutated_json_is_json_again_and_breaks_nothing() -> None:
    found = [mutated(CALL, seed) for seed in range(200)]
    changed = [value for value in found if value is not None]

    assert 80 < len(changed) < 120
    assert len(set(changed)) > 70
    for value in changed:
        json.loads(value)
        assert_outcomes(value)


def test_mutation_is_the_same_for_the_same_seed_and_none_of_what_is_no_json() -> None:
    assert [mutated(CALL, seed) for seed in range(20)] == [mutated(CALL, s) for s in range(20)]
    assert {mutated(b"{", seed) for seed in range(20)} == {None}


def test_seeds_are_written_once_each_and_none_that_is_too_long(tmp_path: Path) -> None:
    write_seeds(tmp_path, 1_000)
    write_seeds(tmp_path, 1_000)

    written = sorted(path.read_bytes() for path in tmp_path.iterdir())
    assert written == sorted({value for value in seeds() if len(value) <= 1_000})
    assert len(written) > 500
    assert {"userId", "user_id", "httpPayload", "personas"} < set(field_names())
