// Comfort for the Explorer; every page works without it. A change in the form shows at once what it changes; Call,
// Compare and the tabs keep the page where it is; blocks of text get a button that copies them.
"use strict";

const LINKS = ".tabs a, .choices a";
let last = Promise.resolve();

// One after the other: Call waits for the change before it, and then sends the bytes that are shown by then
function then(step) {
  last = last.then(step).catch(() => location.reload());
}

function submit(form, button) {
  const data = new FormData(form);
  if (button && button.name) data.set(button.name, button.value);
  const sent = new URLSearchParams([...data].filter(([, value]) => value !== ""));
  return form.method === "post" ? show(form.action, sent) : show(`${form.getAttribute("action")}?${sent}`);
}

// The page at an address, or the answer to a form, in place of what is shown
async function show(address, body) {
  const answer = await fetch(address, body ? { method: "POST", body } : {});
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const next = page.getElementById("shown");
  if (answer.redirected) return location.assign(answer.url);
  if (!next) return document.getElementById("main").replaceChildren(...page.getElementById("main").childNodes);
  const focused = document.activeElement?.id;
  document.getElementById("shown").replaceWith(next);
  renew(page.getElementById("fields"));
  // after a call the address is that of its answer
  const here = body && next.querySelector(".tabs a[aria-current]");
  if (here || !body) history.replaceState(null, "", here ? here.getAttribute("href") : address);
  const again = document.getElementById("ask") || (focused && document.getElementById(focused));
  if (again) again.focus({ preventScroll: true });
  const told = next.querySelector("[role=status], [role=alert]");
  document.getElementById("said").textContent = told ? told.textContent.replace(/\s+/g, " ").slice(0, 300) : "";
  return copyButtons();
}

// Somebody may be typing: controls that stay the same stay in place, and what stands in them is never older
function renew(fields) {
  const old = document.getElementById("fields");
  const boxes = (form) => [...form.querySelectorAll("[id^=f-]:not(p)")];
  const shape = (form) => [form.method, ...boxes(form).map((box) => box.id)].join();
  const twin = (box, form) => form.querySelector(`[id="${box.id}"]`);
  if (shape(old) !== shape(fields)) {
    for (const box of boxes(fields)) if (twin(box, old)) box.value = twin(box, old).value;
    return old.replaceWith(fields);
  }
  old.elements.tab.value = fields.elements.tab.value;
  for (const said of old.querySelectorAll(".wrong")) said.remove();
  for (const box of boxes(old)) {
    const said = twin(box, fields).nextElementSibling;
    if (said?.classList.contains("wrong")) box.after(said);
    box.toggleAttribute("aria-invalid", twin(box, fields).hasAttribute("aria-invalid"));
  }
}

document.addEventListener("change", (event) => {
  const fields = () => document.getElementById("fields");
  if (event.target.form && event.target.form === fields()) then(() => submit(fields()));
});

document.addEventListener("submit", (event) => {
  const { target: form, submitter } = event;
  if (!form.closest(".explorer") || form.getAttribute("role") === "search") return;
  event.preventDefault();
  then(() => submit(form.isConnected ? form : document.getElementById(form.id), submitter));
});

document.addEventListener("click", (event) => {
  const link = event.target.closest(LINKS);
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  // a change just before renews the links: the one of the same name knows of it
  const same = (each) => each.textContent === link.textContent;
  then(() => {
    const now = (link.isConnected ? link : [...document.querySelectorAll(LINKS)].find(same) || link).getAttribute("href");
    document.getElementById("fields").elements.format.value = new URLSearchParams(now.split("?")[1]).get("format") || "JSON";
    return show(now);
  });
});

function copyButtons() {
  for (const block of document.querySelectorAll("pre[data-copy]")) {
    if (!navigator.clipboard || block.parentElement.classList.contains("copyable")) continue;
    const text = { type: "button", className: "copy", textContent: "Copy" };
    const button = Object.assign(document.createElement("button"), text);
    button.setAttribute("aria-label", `Copy: ${block.getAttribute("aria-label")}`);
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(block.textContent);
      button.textContent = "Copied";
    });
    const around = Object.assign(document.createElement("div"), { className: "copyable" });
    block.replaceWith(around);
    around.append(block, button);
  }
}

copyButtons();
