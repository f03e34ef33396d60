// All of the console's script. Every page works without it. It refreshes parts, copies secrets and blocks double submits.
"use strict";

// Reloads each part that has an id and data-refresh="SECONDS", until a reloaded part has no data-refresh.
function refresh() {
  const parts = [...document.querySelectorAll("[data-refresh][id]")];
  if (!parts.length) return;
  const seconds = Math.min(...parts.map((part) => Number(part.dataset.refresh)));
  setTimeout(async () => {
    if (!document.hidden) {
      try {
        const answer = await fetch(location.href, { headers: { "X-Refresh": "1" }, redirect: "error" });
        if (answer.status === 401) return location.reload(); // the session has ended: sign in
        if (answer.ok) replace(parts, new DOMParser().parseFromString(await answer.text(), "text/html"));
      } catch {
        // The server is unreachable: try again at the next refresh.
      }
    }
    refresh();
  }, seconds * 1000);
}

function replace(parts, page) {
  for (const part of parts) {
    const next = page.getElementById(part.id);
    // Do not replace a part that has the focus.
    if (next && !part.contains(document.activeElement) && next.outerHTML !== part.outerHTML) part.replaceWith(next);
  }
}

// Submit a form once, however often its button is clicked.
document.addEventListener("submit", (event) => {
  if (event.target.dataset.sent) return event.preventDefault();
  event.target.dataset.sent = "1";
  event.submitter?.setAttribute("aria-busy", "true");
});
addEventListener("pageshow", () => {
  for (const form of document.forms) delete form.dataset.sent;
  for (const button of document.querySelectorAll("button[aria-busy]")) button.removeAttribute("aria-busy");
});

// <button data-copy="ID"> copies the field with that id.
for (const button of document.querySelectorAll("[data-copy]")) {
  button.hidden = !navigator.clipboard;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).value);
    button.textContent += " ✓";
  });
}

// <input type="checkbox" data-all="NAME"> selects all boxes of that name in its form.
for (const all of document.querySelectorAll("[data-all]")) {
  all.closest("label").hidden = false;
  all.addEventListener("change", () => {
    for (const box of all.form.elements) if (box.name === all.dataset.all) box.checked = all.checked;
  });
}

// A link with role="button" also reacts to the space bar, as a button does.
document.addEventListener("keydown", (event) => {
  if (event.key !== " " || !event.target.matches?.('a[role="button"]')) return;
  event.preventDefault();
  event.target.click();
});

// On a phone the navigation scrolls sideways: scroll the current page's link into view.
document.querySelector("nav [aria-current]")?.scrollIntoView({ inline: "center", block: "nearest" });

refresh();
