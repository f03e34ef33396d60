// All of the console's script. Every page works without it: it refreshes, copies, and stops second clicks.
"use strict";

// A part with data-refresh="SECONDS" and an id is fetched anew, as long as the page that comes still says so.
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
        // The server is away for a moment; the next look may find it.
      }
    }
    refresh();
  }, seconds * 1000);
}

function replace(parts, page) {
  for (const part of parts) {
    const next = page.getElementById(part.id);
    // Whoever is in the middle of something there keeps it.
    if (next && !part.contains(document.activeElement) && next.outerHTML !== part.outerHTML) part.replaceWith(next);
  }
}

// One click sends one form.
document.addEventListener("submit", (event) => {
  if (event.target.dataset.sent) return event.preventDefault();
  event.target.dataset.sent = "1";
  event.submitter?.setAttribute("aria-busy", "true");
});
addEventListener("pageshow", () => {
  for (const form of document.forms) delete form.dataset.sent;
  for (const button of document.querySelectorAll("button[aria-busy]")) button.removeAttribute("aria-busy");
});

// <button data-copy="ID"> copies a field.
for (const button of document.querySelectorAll("[data-copy]")) {
  button.hidden = !navigator.clipboard;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).value);
    button.textContent += " ✓";
  });
}

// <input type="checkbox" data-all="NAME"> ticks all boxes of that name in its form.
for (const all of document.querySelectorAll("[data-all]")) {
  all.closest("label").hidden = false;
  all.addEventListener("change", () => {
    for (const box of all.form.elements) if (box.name === all.dataset.all) box.checked = all.checked;
  });
}

// A link that is told as a button is pressed as one, by the space bar too.
document.addEventListener("keydown", (event) => {
  if (event.key !== " " || !event.target.matches?.('a[role="button"]')) return;
  event.preventDefault();
  event.target.click();
});

// On a phone the pages stand in one row: the one that is open is brought into sight.
document.querySelector("nav [aria-current]")?.scrollIntoView({ inline: "center", block: "nearest" });

refresh();
