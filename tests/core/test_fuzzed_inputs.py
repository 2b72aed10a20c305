"""No exception leaves the decoder or the fold, whatever becomes of good calls on the way."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.mutations import mutated_values
from tests.core.outcomes import assert_outcomes


@given(st.binary())
def test_no_bytes_raise(value: bytes) -> None:
    assert_outcomes(value)


@settings(max_examples=400)
@given(mutated_values())
def test_no_mutation_of_good_calls_raises(value: bytes) -> None:
    assert_outcomes(value)
