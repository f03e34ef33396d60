"""The pages of devices, in a real browser: the secret that is shown once works for the device."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Error, Page, expect

from tests.browser.conftest import NewPage
from tests.browser.judge import Judge
from tests.browser.site import OPERATOR, Site
from tests.browser.test_revoking import connected, is_cut
from tests.processes import ROOT
from tests.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def as_printed(page: Page, folder: Path) -> dict[str, Any]:
    """Follow the page: save the secret to the file that it names, and run its command there."""
    line = await page.locator("pre code").first.inner_text()
    words = shlex.split(line)
    assert words[:4] == ["python", "-m", "app", "device"]
    file = next(after for before, after in pairwise(words) if before in {"--secret-file", "--private-key"})
    (folder / file).write_text(await page.locator("#secret").input_value())
    run = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, *words[1:]],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    answer: dict[str, Any] = json.loads(run.stdout)
    return answer


@pytest.mark.parametrize(
    ("client_id", "key"),
    [
        ("GID_plant@@@d-new", "generate a secret (HS256)"),
        ("GID_plant@@@d-keys-made", "generate a key pair, Ed25519 (EdDSA)"),
    ],
)
async def test_a_registered_device_fetches_a_token_at_once(
    client_id: str, key: str, site: Site, new_page: NewPage, judge: Judge, tmp_path: Path
) -> None:
    """The secret, saved as the page says, is all that the `device` verb needs; it is not shown anywhere else."""
    page = await new_page(OPERATOR)
    await page.goto("/admin/devices")
    await page.get_by_role("button", name="Register a device").first.click()
    await page.get_by_label("Client ID").fill(client_id)
    await page.get_by_label("Key", exact=True).select_option(label=key)
    await page.get_by_label("Note").fill("<i>made</i> in a browser")
    await page.get_by_role("button", name="Register").click()
    await expect(page.get_by_text(f"{client_id} was registered.")).to_be_visible()
    await judge.look(page)
    secret = await page.locator("#secret").input_value()
    answer = await as_printed(page, tmp_path)
    assert answer["mqtt"]["client_id"] == client_id

    await page.get_by_role("button", name="Show the device").click()
    await expect(page.get_by_role("link", name=answer["handle"]).first).to_be_visible()
    await expect(page.get_by_text("<i>made</i> in a browser")).to_be_visible()
    assert secret not in await page.content()
    # The back button does not show it again: it is not cached.
    with pytest.raises(Error, match="ERR_CACHE_MISS"):
        await page.go_back()


async def test_a_wrong_client_id_is_told_and_nothing_typed_is_lost(new_page: NewPage, judge: Judge) -> None:
    """A refused form is shown again as it was filled in, with the error."""
    page = await new_page(OPERATOR)
    await page.goto("/admin/devices/new")
    await page.get_by_label("Client ID").fill("plant-7")
    await page.get_by_label("Attributes").fill("line=7")
    await page.get_by_label("Note").fill("三号 <b>")
    await page.get_by_role("button", name="Register").click()
    await expect(page.get_by_role("alert")).to_contain_text("'plant-7' is not a valid client ID")
    await expect(page.get_by_label("Client ID")).to_have_value("plant-7")
    await expect(page.get_by_label("Attributes")).to_have_value("line=7")
    await expect(page.get_by_label("Note")).to_have_value("三号 <b>")
    await judge.look(page)


async def test_a_disabled_device_is_cut_off_and_let_in_again(site: Site, new_page: NewPage, judge: Judge) -> None:
    """Disabling shows its effects first. Enabling undoes it by one click, and restores no token."""
    client_id = "GID_plant@@@d-off"
    secret = await site.register(client_id)
    answer = await site.token(client_id, secret)
    page = await new_page(OPERATOR)
    async with connected(answer) as connection:
        await page.goto(f"/admin/devices/{client_id}")
        await expect(page.get_by_text("online", exact=True).first).to_be_visible()
        await page.get_by_role("button", name="Disable").click()
        await judge.look(page)
        await page.get_by_role("button", name="Disable").click()
        await expect(page.get_by_text("The device is disabled.")).to_be_visible()
        await judge.look(page)
        await until(lambda: is_cut(connection, "plant/d-off/up/x"), "the device to be cut off")
    await page.get_by_role("button", name="Enable").click()
    await expect(page.get_by_text("The device is enabled")).to_be_visible()
    assert (await site.token(client_id, secret))["handle"] != answer["handle"]


async def test_what_the_cloud_keeps_of_a_device_is_made_shown_once_and_taken_away(
    site: Site, new_page: NewPage, judge: Judge
) -> None:
    """A cloud credential is created, its secret shown once, viewed without it, and deleted after a confirmation."""
    client_id = "GID_plant@@@d-credential"
    await site.register(client_id)
    page = await new_page(OPERATOR)
    address = f"/admin/devices/{client_id}/credential"
    await page.goto(address)
    await page.get_by_role("button", name="Register", exact=True).click()
    await expect(page.get_by_label("Access key secret (shown only once)")).to_be_visible()
    await judge.look(page)
    secret = await page.locator("#secret").input_value()
    await page.goto(address)
    await page.get_by_role("button", name="Show credential").click()
    await expect(page.get_by_text("Access key ID", exact=True)).to_be_visible()
    await judge.look(page)
    assert secret not in await page.content()
    await page.get_by_role("button", name="Unregister").click()
    await judge.look(page)
    await page.locator("main form button").click()
    await expect(page.get_by_text("The cloud deleted the credential.")).to_be_visible()


async def test_a_message_reaches_the_device(site: Site, new_page: NewPage, judge: Judge) -> None:
    """A message sent from the page reaches the device that is subscribed to the topic."""
    client_id = "GID_plant@@@d-hears"
    answer = await site.token(client_id, await site.register(client_id))
    heard: list[tuple[str, str]] = []
    page = await new_page(OPERATOR)
    async with connected(answer, lambda topic, text: heard.append((topic, text))) as connection:
        await asyncio.to_thread(connection.subscribe, "plant/d-hears/down/#")
        await page.goto(f"/admin/devices/{client_id}/message")
        await page.get_by_label("Topic").fill("plant/d-hears/down/led")
        await page.get_by_label("Payload").fill("开灯 <on>")
        await page.get_by_role("button", name="Send").click()
        await expect(page.get_by_text("The cloud accepted the message")).to_be_visible()
        await judge.look(page)

        async def arrived() -> bool:
            return ("plant/d-hears/down/led", "开灯 <on>") in heard

        await until(arrived, "the message")
