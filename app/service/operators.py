"""Operators: adding, changing and removing them, for an admin or the command line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from app.errors import InvalidRequest, NotFound, SignInFailed, Unavailable
from app.model.actors import Actor
from app.model.operators import Operator, OperatorRole, generate_password, is_operator_name
from app.model.secrets import Password, PasswordHash
from app.model.text import _
from app.service.passwords import PASSWORDS
from app.service.refusal_texts import cannot_decrypt
from app.service.sign_in import NO_OPERATOR, count_attempt, report_refused
from app.store.audit import Event, EventKind
from app.store.operators import MAX_OPERATORS, Operators, OperatorsSnapshot, StoredOperator
from app.store.sealing import CannotOpen

_TRIES: Final = 5
"""How often a change is decided again because another change came first."""

Change = Callable[[OperatorsSnapshot], tuple[Operator, PasswordHash | None]]
"""Decides from a snapshot what to write for an operator; without a hash they are removed. Raises refusals."""


@dataclass(frozen=True, slots=True)
class NewPassword:
    """An operator, with the password if it was generated here: it is shown only once."""

    name: str
    role: OperatorRole
    password: Password | None


class OperatorAdmin:
    """Changes operators for an admin, and an operator's own password."""

    def __init__(self, operators: Operators) -> None:
        """Keep them in ``operators``."""
        self._operators = operators

    async def add_operator(
        self, name: str, role: OperatorRole, password: Password | None = None, *, actor: Actor
    ) -> NewPassword:
        """Add an operator; without a password one is generated.

        Raises ``InvalidRequest`` for a wrong or taken name or a password that is not allowed, and ``Unavailable``.
        """
        if not is_operator_name(name):
            raise InvalidRequest(
                _("not a valid name: expected 1 to 64 of A-Z a-z 0-9 . _ - with a letter or digit first")
            )
        chosen = generate_password() if password is None else password
        hashed = await PASSWORDS.make(name, chosen)
        new = Operator(name, role, self._operators.now_ms())

        def change(snapshot: OperatorsSnapshot) -> tuple[Operator, PasswordHash]:
            if name in snapshot.accounts:
                raise InvalidRequest(
                    _("there is already an operator named %(name)s: change that one, or choose another name", name=name)
                )
            if len(snapshot.accounts) >= MAX_OPERATORS:
                raise InvalidRequest(
                    _("there are %(most)s operators already: remove those who have left first", most=MAX_OPERATORS)
                )
            return new, hashed

        await self._write(change, Event(actor, EventKind.OPERATOR_ADDED, f"{name}: role {role}"))
        return NewPassword(name, role, chosen if password is None else None)

    async def set_password(self, name: str, password: Password | None = None, *, actor: Actor) -> NewPassword:
        """Give an operator another password, and end all their sessions; without one it is generated.

        Raises ``NotFound``, ``InvalidRequest`` for a password that is not allowed, and ``Unavailable``.
        """
        account = _account(await self._operators.read_operators(), name)
        chosen = generate_password() if password is None else password
        hashed = await PASSWORDS.make(name, chosen)
        await self._write(
            lambda snapshot: (_account(snapshot, name).operator, hashed),
            Event(actor, EventKind.OPERATOR_CHANGED, f"{name}: password"),
        )
        return NewPassword(name, account.operator.role, chosen if password is None else None)

    async def set_role(self, name: str, role: OperatorRole, *, actor: Actor) -> None:
        """Give an operator another role, and end all their sessions.

        Raises ``NotFound``, ``InvalidRequest`` if no admin would be left, and ``Unavailable``.
        """

        def change(snapshot: OperatorsSnapshot) -> tuple[Operator, PasswordHash]:
            account = _account(snapshot, name)
            if role is not OperatorRole.ADMIN:
                _check_admin_left(snapshot, name)
            return replace(account.operator, role=role), account.hash

        await self._write(change, Event(actor, EventKind.OPERATOR_CHANGED, f"{name}: role {role}"))

    async def end_sessions(self, name: str, *, actor: Actor) -> None:
        """Sign an operator out everywhere. Raises ``NotFound`` and ``Unavailable``."""

        def change(snapshot: OperatorsSnapshot) -> tuple[Operator, PasswordHash]:
            account = _account(snapshot, name)
            return account.operator, account.hash

        await self._write(change, Event(actor, EventKind.OPERATOR_CHANGED, f"{name}: logged out everywhere"))

    async def remove_operator(self, name: str, *, actor: Actor) -> None:
        """Remove an operator and end all their sessions, also if their record cannot be decrypted.

        Raises ``NotFound``, ``InvalidRequest`` if no admin would be left, and ``Unavailable``.
        """

        def change(snapshot: OperatorsSnapshot) -> tuple[Operator, None]:
            if name not in snapshot.accounts:
                raise _not_found()
            _check_admin_left(snapshot, name)
            return Operator(name, OperatorRole.VIEWER, 0), None

        await self._write(change, Event(actor, EventKind.OPERATOR_REMOVED, name))

    async def list_operators(self) -> list[Operator]:
        """Return every operator by name. Raises ``Unavailable``."""
        snapshot = await self._operators.read_operators()
        return [_account(snapshot, name).operator for name in sorted(snapshot.accounts)]

    async def change_password(self, name: str, old: Password, new: Password, *, actor: Actor) -> None:
        """Change an operator's own password, and end all their sessions, the current one too.

        The old password is checked, and attempts are slowed down as at signing in: a person who finds an open browser
        must not be able to take the account over. Raises ``SignInFailed`` for a wrong old password, ``InvalidRequest``
        for a new one that is not allowed, ``TooManyRequests`` and ``Unavailable``.
        """
        with PASSWORDS.place():
            await count_attempt(self._operators.attempts, name, "")
            account = await self._find(name)
            right = (await PASSWORDS.check(account.hash if account else None, old)).right
        if not account or not right:
            detail = f"{name if account else NO_OPERATOR} changing the password"
            await report_refused(self._operators.attempts, detail, request_id=actor.request_id)
            raise SignInFailed(_("the old password is wrong: try again, or ask an admin for a new password"))
        await self._operators.attempts.forgive_attempts(name, "")
        proved = account
        hashed = await PASSWORDS.make(name, new)

        def change(snapshot: OperatorsSnapshot) -> tuple[Operator, PasswordHash]:
            # The checked password was that of this epoch: an admin may have changed it since, to lock an intruder out.
            if (now := _account(snapshot, name)).epoch != proved.epoch:
                raise SignInFailed(_("the operator was changed by someone else at the same moment: sign in again"))
            return now.operator, hashed

        await self._write(change, Event(actor, EventKind.OPERATOR_CHANGED, f"{name}: password"))

    async def _find(self, name: str) -> StoredOperator | None:
        try:
            return await self._operators.find_operator(name)
        except CannotOpen as error:
            raise cannot_decrypt(str(error)) from error

    async def _write(self, change: Change, event: Event) -> None:
        """Decide a change from a snapshot and write it, if the operators are still the same."""
        for _attempt in range(_TRIES):
            snapshot = await self._operators.read_operators()
            operator, hashed = change(snapshot)
            if await self._operators.write_operator(snapshot, operator, hashed, event=event):
                return
        raise Unavailable(_("operators are being changed by others at the moment: try again"))


def _account(snapshot: OperatorsSnapshot, name: str) -> StoredOperator:
    if name not in snapshot.accounts:
        raise _not_found()
    account = snapshot.accounts[name]
    if account is None:
        raise cannot_decrypt(f"operator {name}")
    return account


def _check_admin_left(snapshot: OperatorsSnapshot, name: str) -> None:
    """Raise ``InvalidRequest`` if this is the last admin: no operator could add another one at the console."""
    admins = {
        each for each, account in snapshot.accounts.items() if account and account.operator.role is OperatorRole.ADMIN
    }
    if admins == {name}:
        raise InvalidRequest(_("%(name)s is the last admin: give another operator the role admin first", name=name))


def _not_found() -> NotFound:
    return NotFound(_("there is no operator of that name"))
