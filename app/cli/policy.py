"""``policy``: is the file right, what may a device do by it, and what must the cloud allow for it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import typer

from app.cli.setup import JsonOption, StateOption, environment, find_device, open_registry, settings
from app.errors import Misconfigured
from app.model.devices import ClientId, Device, MalformedClientId, parse_client_id
from app.model.grants import PUBLISH, SUBSCRIBE
from app.model.policy_file import load_policy
from app.rpc.catalog import ACTIONS
from app.rpc.ram import least_policy

SERVER_ACTIONS: Final = ("ApplyToken", "QueryToken", "RevokeToken")
"""The actions of the cloud that an instance of this server calls by itself."""

_KEYS: Final = {PUBLISH: "publish", SUBSCRIBE: "subscribe"}

app = typer.Typer(no_args_is_help=True, help="The policy file: check it, and ask what a device may do by it.")


@app.command()
def check(
    file: Annotated[Path | None, typer.Argument(help="Left out: POLICY_FILE of the set-up.")] = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell whether the policy file is right, and point out what is probably not meant."""
    path = file or _configured_file(state)
    policy = load_policy(path)
    warnings = list(policy.warnings())
    if as_json:
        print(json.dumps({"file": str(path), "roles": list(policy.roles), "warnings": warnings}))
        return
    for warning in warnings:
        print(f"warning: {warning}")
    print(f"{path} is right: {', '.join(policy.roles) or 'no roles'}")


@app.command()
def explain(
    client_id: Annotated[str, typer.Argument(help="GID_group@@@device")],
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell what a device may do, by which rule and which template."""
    name = _client_id(client_id)
    policy = load_policy(_configured_file(state))
    device = asyncio.run(_registered(name, state))
    explanation = policy.explain(name, device.role if device else None, device.attributes if device else {})
    if as_json:
        print(json.dumps({**asdict(explanation), "registered": device is not None, "grant": explanation.has_grant}))
        return
    print(f"{name}{'' if device else ' (not registered: gets no token until it is)'}")
    print(f"role {explanation.role or 'none'}: {explanation.rule}")
    for template in explanation.templates:
        result = f"{template.verb}:{template.result}" if template.result else f"nothing: {template.reason}"
        print(f"  {result}  (from {_KEYS[template.verb]} {template.template})")
    if explanation.role and not explanation.has_grant:
        print("no grant: one template that gives nothing is enough for none")


@app.command()
def ram(
    file: Annotated[Path | None, typer.Argument(help="Left out: POLICY_FILE of the set-up.")] = None,
    instance_id: Annotated[
        str | None, typer.Option("--instance-id", help="MQTT instance; left out: CLOUD_INSTANCE_ID of the set-up.")
    ] = None,
    close_connection: Annotated[
        bool,
        typer.Option("--close-connection", envvar="CLOSE_CONNECTION_ON_REVOKE", help="Also what that setting needs."),
    ] = False,
    console: Annotated[
        bool, typer.Option("--console", help="Also what operators do at the cloud by hand, in the console: all of it.")
    ] = False,
    state: StateOption = None,
) -> None:
    """Print the least RAM policy for the access key of this server: JSON to paste into the cloud's console.

    It allows tokens for the parent topics of the policy file on the one instance, asking for them and revoking them.
    """
    globs = dict(load_policy(file or _configured_file(state)).parent_globs())
    for glob, place in globs.items():
        if "*" in glob:
            print(f"warning: {place} needs every parent topic like {glob}: name the first level", file=sys.stderr)
    actions = (*SERVER_ACTIONS, "CloseConnection") if close_connection else SERVER_ACTIONS
    document = least_policy(ACTIONS if console else actions, instance_id or _setting("CLOUD_INSTANCE_ID", state), globs)
    print(json.dumps(document, indent=2))


async def _registered(client_id: ClientId, state: Path | None) -> Device | None:
    async with open_registry(settings(state)) as registry:
        return await find_device(registry, client_id)


def _client_id(text: str) -> ClientId:
    try:
        return parse_client_id(text)
    except MalformedClientId as error:
        raise Misconfigured(str(error)) from None


def _configured_file(state: Path | None) -> Path:
    return Path(_setting("POLICY_FILE", state))


def _setting(name: str, state: Path | None) -> str:
    """Return one setting of the set-up; neither this nor that of a file needs the rest of it."""
    here = state is None and any(os.environ.get(each) for each in ("POLICY_FILE", "CLOUD_INSTANCE_ID"))
    value = (os.environ if here else environment(state)).get(name)
    if not value:
        raise Misconfigured(f"{name} is not set")
    return value
