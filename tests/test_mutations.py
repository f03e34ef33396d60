from __future__ import annotations

import pytest

from tests.mutations import MUTATIONS, Mutation, mutate
from tests.processes import ROOT


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_mutation_changes_the_code_there_is(mutation: Mutation) -> None:
    """The safeguard that it takes out occurs exactly once, and the tests that guard it exist."""
    text = (ROOT / mutation.file).read_text()
    assert mutate(mutation, text) != text
    assert all((ROOT / name).exists() for name in mutation.tests)


def test_a_safeguard_that_is_gone_is_noticed() -> None:
    """A mutation that changes nothing would be a test that cannot fail."""
    with pytest.raises(ValueError, match="must have once"):
        mutate(MUTATIONS[0], "")
