"""Operators: added, changed and removed, by an admin or at the command line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from app.errors import InvalidRequest, NotFound, SignInFailed, Unavailable
from app.model.actors import Actor
from app.model.operators import Operator, OperatorRole, generate_password, is_operator_name
from app.model.secrets import Password, PasswordHash
from app.service.passwords import PASSWORDS
from app.service.sign_in import NO_OPERATOR, count_attempt, report_refused
from app.store.audit import Event, EventKind
from app.store.operators import MAX_OPERATORS, Operators, OperatorsSnapshot, StoredOperator
from app.store.sealing import CannotOpen

_TRIES: Final = 5
"""How often a change is decided anew because another one came first."""

Change = Callable[[OperatorsSnapshot], tuple[Operator, PasswordHash | None]]
"""What to write of an operator as things stand, without a hash to remove them. Raises what it refuses."""


@dataclass(frozen=True, slots=True)
class NewPassword:
    """An operator, with the password if it was generated here: it is shown this once."""

    name: str
    role: OperatorRole
    password: Password | None


class OperatorAdmin:
    """What an admin does with operators, and an operator with their own password."""

    def __init__(self, operators: Operators) -> None:
        """Keep them in ``operators``."""
        self._operators = operators

    async def add_operator(
        self, name: str, role: OperatorRole, password: Password | None = None, *, actor: Actor
    ) -> NewPassword:
        """Add an operator; without a password one is generated.

        Raises ``InvalidRequest`` for a wrong or taken name or a password that must not be, and ``Unavailable``.
        """
        if not is_operator_name(name):
            raise InvalidRequest(
                "an operator's name has 1 to 64 of A-Z a-z 0-9 . _ - and begins with a letter or digit"
            )
        chosen = generate_password() if password is None else password
        hashed = await PASSWORDS.make(name, chosen)
        new = Operator(name, role, self._operators.now_ms())

        def change(roll: OperatorsSnapshot) -> tuple[Operator, PasswordHash]:
            if name in roll.accounts:
                raise InvalidRequest(f"there is an operator {name} already: change or remove that one")
            if len(roll.accounts) >= MAX_OPERATORS:
                raise InvalidRequest(f"there are {MAX_OPERATORS} operators already: remove who has left")
            return new, hashed

        await self._write(change, Event(actor, EventKind.OPERATOR_ADDED, f"{name}: role {role}"))
        return NewPassword(name, role, chosen if password is None else None)

    async def set_password(self, name: str, password: Password | None = None, *, actor: Actor) -> NewPassword:
        """Give an operator another password, and end all their sessions; without one it is generated.

        Raises ``NotFound``, ``InvalidRequest`` for a password that must not be, and ``Unavailable``.
        """
        account = _account(await self._operators.read_operators(), name)
        chosen = generate_password() if password is None else password
        hashed = await PASSWORDS.make(name, chosen)
        await self._write(
            lambda roll: (_account(roll, name).operator, hashed),
            Event(actor, EventKind.OPERATOR_CHANGED, f"{name}: password"),
        )
        return NewPassword(name, account.operator.role, chosen if password is None else None)

    async def set_role(self, name: str, role: OperatorRole, *, actor: Actor) -> None:
        """Give an operator another role, and end all their sessions.

        Raises ``NotFound``, ``InvalidRequest`` if no admin would be left, and ``Unavailable``.
        """

        def change(roll: OperatorsSnapshot) -> tuple[Operator, PasswordHash]:
            account = _account(roll, name)
            if role is not OperatorRole.ADMIN:
                _check_admin_left(roll, name)
            return replace(account.operator, role=role), account.hash

        await self._write(change, Event(actor, EventKind.OPERATOR_CHANGED, f"{name}: role {role}"))

    async def end_sessions(self, name: str, *, actor: Actor) -> None:
        """Log an operator out everywhere. Raises ``NotFound`` and ``Unavailable``."""

        def change(roll: OperatorsSnapshot) -> tuple[Operator, PasswordHash]:
            account = _account(roll, name)
            return account.operator, account.hash

        await self._write(change, Event(actor, EventKind.OPERATOR_CHANGED, f"{name}: logged out everywhere"))

    async def remove_operator(self, name: str, *, actor: Actor) -> None:
        """Remove an operator, and end all their sessions; also one whose record cannot be opened.

        Raises ``NotFound``, ``InvalidRequest`` if no admin would be left, and ``Unavailable``.
        """

        def change(roll: OperatorsSnapshot) -> tuple[Operator, None]:
            if name not in roll.accounts:
                raise _not_found()
            _check_admin_left(roll, name)
            return Operator(name, OperatorRole.VIEWER, 0), None

        await self._write(change, Event(actor, EventKind.OPERATOR_REMOVED, name))

    async def list_operators(self) -> list[Operator]:
        """Return every operator by name. Raises ``Unavailable``."""
        roll = await self._operators.read_operators()
        return [_account(roll, name).operator for name in sorted(roll.accounts)]

    async def change_password(self, name: str, old: Password, new: Password, *, actor: Actor) -> None:
        """Change an operator's own password, and end all their sessions, the one that this is done in too.

        The old one is asked for and attempts are slowed down as at signing in, or whoever finds a browser left open
        could keep the account. Raises ``SignInFailed`` for a wrong old one, ``InvalidRequest`` for a new one that must
        not be, ``TooManyRequests`` and ``Unavailable``.
        """
        with PASSWORDS.place():
            await count_attempt(self._operators.attempts, name, "")
            account = await self._find(name)
            right = (await PASSWORDS.check(account.hash if account else None, old)).right
        if not account or not right:
            detail = f"{name if account else NO_OPERATOR} changing the password"
            await report_refused(self._operators.attempts, detail, request_id=actor.request_id)
            raise SignInFailed("the old password is not right: try again, or have an admin set a new one")
        await self._operators.attempts.forgive_attempts(name, "")
        proved = account
        hashed = await PASSWORDS.make(name, new)

        def change(roll: OperatorsSnapshot) -> tuple[Operator, PasswordHash]:
            # What was proved is the password of this epoch: it may have been changed against an intruder meanwhile.
            if (now := _account(roll, name)).epoch != proved.epoch:
                raise SignInFailed("the operator was changed by another at this moment: sign in again")
            return now.operator, hashed

        await self._write(change, Event(actor, EventKind.OPERATOR_CHANGED, f"{name}: password"))

    async def _find(self, name: str) -> StoredOperator | None:
        try:
            return await self._operators.find_operator(name)
        except CannotOpen as error:
            raise _unopened(str(error)) from error

    async def _write(self, change: Change, event: Event) -> None:
        """Decide on a change as things stand, and write it if they still do."""
        for _ in range(_TRIES):
            roll = await self._operators.read_operators()
            operator, hashed = change(roll)
            if await self._operators.write_operator(roll, operator, hashed, event=event):
                return
        raise Unavailable("others are changing operators at this moment: ask again")


def _account(roll: OperatorsSnapshot, name: str) -> StoredOperator:
    if name not in roll.accounts:
        raise _not_found()
    account = roll.accounts[name]
    if account is None:
        raise _unopened(f"operator {name}")
    return account


def _check_admin_left(roll: OperatorsSnapshot, name: str) -> None:
    """Raise if this is the last admin: nobody could make another one at the console."""
    admins = {
        each for each, account in roll.accounts.items() if account and account.operator.role is OperatorRole.ADMIN
    }
    if admins == {name}:
        raise InvalidRequest(f"{name} is the last admin: make another operator one first")


def _not_found() -> NotFound:
    return NotFound("there is no operator of that name")


def _unopened(cause: str) -> Unavailable:
    return Unavailable(
        "an operator's record cannot be opened: put its key back into SEALING_KEYS, or remove and add the operator",
        cause=cause,
        retry_after_s=60,
    )
