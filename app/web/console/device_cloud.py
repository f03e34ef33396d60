"""What is done for one device at the cloud: its credential, its connection, a message to it (guide 12 and 14)."""

from __future__ import annotations

from app.cloud.answers import DeviceCredential
from app.model.devices import Device
from app.model.policy import Explanation
from app.rpc.catalog import ACTIONS
from app.rpc.parameters import problems
from app.web.api import Asked
from app.web.console.devices import address_of, to_device
from app.web.console.forms import Filled
from app.web.console.pages import Moved, Visit
from app.web.console.rendering import Shown


class SentAsked(Asked, frozen=True):
    """The ID of the message that was sent on this page before, and its topic."""

    message_id: str = ""
    topic: str = ""


class MessageForm(Asked, frozen=True):
    """A message to send."""

    topic: str = ""
    payload: str = ""


async def credential(visit: Visit) -> Shown:
    """Say what can be done about a device's credential; the cloud is not asked before somebody does."""
    return _credential(await visit.registry.get(visit.path["client_id"]))


async def look(visit: Visit) -> Shown:
    """Show what the cloud says of it, without the secret."""
    device = await visit.registry.get(visit.path["client_id"])
    return _credential(device, await visit.desk.credential(device.client_id))


async def register(visit: Visit) -> Shown:
    """Have one made; its secret is shown in this very answer."""
    device = await visit.registry.get(visit.path["client_id"])
    return _credential(device, await visit.desk.register_credential(device.client_id), made="registered")


async def refresh(visit: Visit) -> Shown:
    """Have its secret replaced; the new one is shown in this very answer."""
    device = await visit.registry.get(visit.path["client_id"])
    return _credential(device, await visit.desk.refresh_credential(device.client_id), made="refreshed")


async def ask(visit: Visit) -> Shown:
    """Say what taking the credential away will do."""
    return Shown.of("device_unregister.html", device=await visit.registry.get(visit.path["client_id"]))


async def unregister(visit: Visit) -> Moved:
    """Take the credential away."""
    device = await visit.registry.get(visit.path["client_id"])
    await visit.desk.unregister_credential(device.client_id)
    return Moved(f"{address_of(device.client_id)}/credential", done="unregistered")


async def close(visit: Visit) -> Moved:
    """Cut the device's connection."""
    device = await visit.registry.get(visit.path["client_id"])
    await visit.desk.close_connection(device.client_id)
    return to_device(visit, "closed")


async def message(visit: Visit, query: SentAsked, form: Filled | None = None) -> Shown:
    """Show the form that sends a message, with the topic that reaches this device and no other."""
    device = await visit.registry.get(visit.path["client_id"])
    if form is None:
        explanation = visit.policy.explain(device.client_id, device.role or None, device.attributes)
        form = {"topic": query.topic or _own_topic(explanation)}
    return Shown.of("device_message.html", device=device, form=form, message_id=query.message_id, topic=query.topic)


async def send(visit: Visit, form: MessageForm) -> Moved:
    """Send the message; who is connected and subscribed gets it."""
    device = await visit.registry.get(visit.path["client_id"])
    message_id = await visit.desk.send_message(device.client_id, form.topic, form.payload)
    address = f"{address_of(device.client_id)}/message"
    return Moved(address, done="sent", query={"message_id": message_id, "topic": form.topic})


def _own_topic(explanation: Explanation) -> str:
    """Return the topic by which the cloud reaches this device alone (FACTS 1), if one can be made of its policy."""
    parents = [str(each.result).split("/")[0] for each in explanation.templates if each.result]
    topic = f"{parents[0]}/p2p/{explanation.client_id}" if parents else ""
    return "" if problems(ACTIONS["SendMessage"], {"MqttTopic": topic, "Payload": "x"}) else topic


def _credential(device: Device, found: DeviceCredential | None = None, *, made: str = "") -> Shown:
    """Show the page; the secret is on it if it was ``made`` just now, and how."""
    return Shown.of(
        "device_credential.html",
        device=device,
        credential=found,
        made=made,
    )
