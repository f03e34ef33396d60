"""``policy``: checks the policy file, explains what a device may do, and prints the RAM policy it needs."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from app.cli.setup import JsonOption, StateOption, environment, find_device, run_with_services
from app.errors import Misconfigured
from app.model.devices import ClientId, MalformedClientId, parse_client_id
from app.model.grants import PUBLISH, SUBSCRIBE
from app.model.policy import Explanation
from app.model.policy_file import load_policy
from app.rpc.catalog import ACTIONS
from app.rpc.ram import least_policy

SERVER_ACTIONS: Final = ("ApplyToken", "QueryToken", "RevokeToken")
"""The actions that an instance of this server calls without an operator."""

_FIELD_OF_VERB: Final = {PUBLISH: "publish", SUBSCRIBE: "subscribe"}

app = typer.Typer(no_args_is_help=True, help="The policy file: check it, and see what a device may do.")


@app.command("check")
def check_policy(
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="Default: POLICY_FILE.")] = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check the policy file, and point out what is probably a mistake."""
    path = file or _configured_file(state)
    policy = load_policy(path)
    warnings = list(policy.warnings())
    if as_json:
        print(json.dumps({"file": str(path), "roles": list(policy.roles), "warnings": warnings}))
        return
    for warning in warnings:
        print(f"warning: {warning}")
    print(f"{path} is valid: {', '.join(policy.roles)}")


@app.command("explain")
def explain_device(
    client_id: Annotated[str, typer.Argument(metavar="CLIENT_ID", help="GID_group@@@device")],
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a device may do, by which rule and which template."""
    name = _client_id(client_id)
    policy = load_policy(_configured_file(state))
    device = run_with_services(state, lambda services: find_device(services.registry, name))
    explanation = policy.explain(name, device.role if device else None, device.attributes if device else {})
    if as_json:
        print(json.dumps({**_record(explanation), "registered": device is not None, "grant": explanation.has_grant}))
        return
    print(f"{name}{'' if device else ' (not registered: it gets no token)'}")
    print(f"role {explanation.role or 'none'}: {explanation.rule}")
    for template in explanation.templates:
        result = f"{template.verb}:{template.result}" if template.result else f"nothing: {template.reason}"
        print(f"  {result}  (from {_FIELD_OF_VERB[template.verb]} {template.template})")
    if explanation.role and not explanation.has_grant:
        print("no grant: every template must give a topic filter")


@app.command("ram")
def print_ram_policy(
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="Default: POLICY_FILE.")] = None,
    instance_id: Annotated[
        str | None,
        typer.Option("--instance-id", metavar="ID", help="MQTT instance. Default: CLOUD_INSTANCE_ID."),
    ] = None,
    close_connection: Annotated[
        bool,
        typer.Option("--close-connection", envvar="CLOSE_CONNECTION_ON_REVOKE", help="Include what it needs."),
    ] = False,
    console: Annotated[
        bool, typer.Option("--console", help="Include all that operators can do at the cloud in the console.")
    ] = False,
    state: StateOption = None,
) -> None:
    """Print the least RAM policy that this server needs. It is JSON to paste into the cloud's console.

    It allows the server to apply for tokens, query and revoke them, for the parent topics in the policy file and on one
    instance.
    """
    globs = dict(load_policy(file or _configured_file(state)).parent_globs())
    for glob, place in globs.items():
        if "*" in glob:
            print(
                f"warning: {place} needs every parent topic like {glob}: write out the first level",
                file=sys.stderr,
            )
    actions = (*SERVER_ACTIONS, "CloseConnection") if close_connection else SERVER_ACTIONS
    document = least_policy(ACTIONS if console else actions, instance_id or _setting("CLOUD_INSTANCE_ID", state), globs)
    print(json.dumps(document, indent=2))


def _record(explanation: Explanation) -> dict[str, Any]:
    """Return an explanation as JSON has it; ``reason`` is a text, empty where there is a result."""
    record = asdict(explanation)
    for template in record["templates"]:
        template["reason"] = template["reason"] or ""
    return record


def _client_id(text: str) -> ClientId:
    try:
        return parse_client_id(text)
    except MalformedClientId as error:
        raise Misconfigured(str(error)) from None


def _configured_file(state: Path | None) -> Path:
    return Path(_setting("POLICY_FILE", state))


def _setting(name: str, state: Path | None) -> str:
    """Return one setting, also where the others are not set. Raises ``Misconfigured``."""
    is_in_environment = state is None and any(os.environ.get(each) for each in ("POLICY_FILE", "CLOUD_INSTANCE_ID"))
    value = (os.environ if is_in_environment else environment(state)).get(name)
    if not value:
        raise Misconfigured(f"{name} is not set: set it, or name a --state")
    return value
