from __future__ import annotations

import pytest

from app.errors import Forbidden
from app.model.operators import Operator, OperatorRole
from app.web.console.guard import check_role


@pytest.mark.parametrize("role", OperatorRole)
@pytest.mark.parametrize("needed", OperatorRole)
def test_a_role_may_do_what_it_and_those_before_it_may(role: OperatorRole, needed: OperatorRole) -> None:
    """A viewer looks, an operator acts, an admin does everything."""
    may = list(OperatorRole).index(role) >= list(OperatorRole).index(needed)
    operator = Operator("ada", role, 0)
    if may:
        check_role(operator, needed)
    else:
        with pytest.raises(Forbidden, match=f"takes the role {needed}, and ada is {role}"):
            check_role(operator, needed)
