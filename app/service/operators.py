"""Operators: added, changed and removed, by an admin or at the command line."""

from __future__ import annotations

from dataclasses import dataclass

from app.model.operators import Operator, Role
from app.model.secrets import Password
from app.store.operators import Operators


@dataclass(frozen=True, slots=True)
class Made:
    """An operator, with the password if it was drawn here: it is shown this once."""

    name: str
    role: Role
    password: Password | None


class OperatorOffice:
    """What an admin does with operators, and an operator with their own password."""

    def __init__(self, operators: Operators, *, by: str) -> None:
        """``by`` is who acts, as the audit trail names them."""
        self._operators = operators
        self._by = by

    async def add(self, name: str, role: Role, password: Password | None = None) -> Made:
        """Add an operator."""
        raise NotImplementedError

    async def set_password(self, name: str, password: Password | None = None) -> Made:
        """Give an operator another password, and end all their sessions."""
        raise NotImplementedError

    async def set_role(self, name: str, role: Role) -> None:
        """Give an operator another role, and end all their sessions."""
        raise NotImplementedError

    async def end_sessions(self, name: str) -> None:
        """Log an operator out everywhere."""
        raise NotImplementedError

    async def remove(self, name: str) -> None:
        """Remove an operator, and end all their sessions."""
        raise NotImplementedError

    async def all(self) -> list[Operator]:
        """Return every operator by name. Raises ``Unavailable``."""
        raise NotImplementedError

    async def change_password(self, name: str, old: Password, new: Password) -> None:
        """Change an operator's own password, and end all their sessions, this one too."""
        raise NotImplementedError
