"""What is done for one device at the cloud: its credential, its connection, a message to it (guide 12 and 14)."""

from __future__ import annotations

from app.cloud.answers import DeviceCredential
from app.model.devices import Device
from app.model.policy import Explanation
from app.rpc.catalog import ACTIONS
from app.rpc.parameters import problems
from app.web.console.devices import address_of, to_device
from app.web.console.results import PageContent, Redirect
from app.web.conversion import FormModel, FormValues
from app.web.route import AdminRequest


class SentMessageQuery(FormModel, frozen=True):
    """The ID of the message that was sent on this page before, and its topic."""

    message_id: str = ""
    topic: str = ""


class MessageForm(FormModel, frozen=True):
    """A message to send."""

    topic: str = ""
    payload: str = ""


async def show_credential(request: AdminRequest) -> PageContent:
    """Say what can be done about a device's credential; the cloud is not asked until the operator says so."""
    return _credential_content(await request.services.registry.get_device(request.path["client_id"]))


async def look_up_credential(request: AdminRequest) -> PageContent:
    """Show what the cloud knows of a credential, without the secret."""
    device = await request.services.registry.get_device(request.path["client_id"])
    return _credential_content(device, await request.services.cloud_admin.get_credential(device.client_id))


async def register_credential(request: AdminRequest) -> PageContent:
    """Register a credential; its secret is shown in this answer alone."""
    device = await request.services.registry.get_device(request.path["client_id"])
    return _credential_content(
        device,
        await request.services.cloud_admin.register_credential(device.client_id, actor=request.actor),
        made="registered",
    )


async def refresh_credential(request: AdminRequest) -> PageContent:
    """Replace a credential's secret; the new one is shown in this answer alone."""
    device = await request.services.registry.get_device(request.path["client_id"])
    return _credential_content(
        device,
        await request.services.cloud_admin.refresh_credential(device.client_id, actor=request.actor),
        made="refreshed",
    )


async def ask_to_unregister_credential(request: AdminRequest) -> PageContent:
    """Say what unregistering the credential will do."""
    return PageContent.of(
        "device_unregister.html", device=await request.services.registry.get_device(request.path["client_id"])
    )


async def unregister_credential(request: AdminRequest) -> Redirect:
    """Unregister the credential."""
    device = await request.services.registry.get_device(request.path["client_id"])
    await request.services.cloud_admin.unregister_credential(device.client_id, actor=request.actor)
    return Redirect(f"{address_of(device.client_id)}/credential", done="unregistered")


async def close_connection(request: AdminRequest) -> Redirect:
    """Close the device's connection."""
    device = await request.services.registry.get_device(request.path["client_id"])
    await request.services.cloud_admin.close_connection(device.client_id, actor=request.actor)
    return to_device(request, "closed")


async def show_message_form(
    request: AdminRequest, query: SentMessageQuery, form: FormValues | None = None
) -> PageContent:
    """Show the form that sends a message, with the topic that reaches this device and no other."""
    device = await request.services.registry.get_device(request.path["client_id"])
    if form is None:
        explanation = request.services.policies().explain(device.client_id, device.role or None, device.attributes)
        form = {"topic": query.topic or _own_topic(explanation)}
    return PageContent.of(
        "device_message.html", device=device, form=form, message_id=query.message_id, topic=query.topic
    )


async def send_message(request: AdminRequest, form: MessageForm) -> Redirect:
    """Send the message; every client that is connected and subscribed gets it."""
    device = await request.services.registry.get_device(request.path["client_id"])
    message_id = await request.services.cloud_admin.send_message(
        device.client_id, form.topic, form.payload, actor=request.actor
    )
    address = f"{address_of(device.client_id)}/message"
    return Redirect(address, done="sent", query={"message_id": message_id, "topic": form.topic})


def _own_topic(explanation: Explanation) -> str:
    """Return the topic by which the cloud reaches this device alone (FACTS 1), if one can be made of its policy."""
    parents = [str(each.result).split("/")[0] for each in explanation.templates if each.result]
    topic = f"{parents[0]}/p2p/{explanation.client_id}" if parents else ""
    return "" if problems(ACTIONS["SendMessage"], {"MqttTopic": topic, "Payload": "x"}) else topic


def _credential_content(device: Device, found: DeviceCredential | None = None, *, made: str = "") -> PageContent:
    """Show the page; the secret is on it if it was ``made`` just now, and how."""
    return PageContent.of(
        "device_credential.html",
        device=device,
        credential=found,
        made=made,
    )
