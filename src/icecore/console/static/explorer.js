// Comfort for the Explorer; every page works without it. A change in the form shows at once what it changes; Call,
// Compare and the tabs keep the page where it is; blocks of text get a button that copies them.
"use strict";

const main = document.getElementById("main");
let last = Promise.resolve();

function query(form, button) {
  const data = new FormData(form);
  if (button && button.name) data.set(button.name, button.value);
  return new URLSearchParams([...data].filter(([, value]) => value !== ""));
}

// The page at an address, or the answer to a form, in place of what is shown. Focus stays on the same control.
async function show(address, body) {
  const answer = await fetch(address, body ? { method: "POST", body } : {});
  if (!(answer.headers.get("content-type") || "").startsWith("text/html") || answer.redirected) {
    location.assign(answer.url);
    return;
  }
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const focused = document.activeElement && document.activeElement.id;
  const next = page.getElementById("shown");
  if (!next) {
    main.replaceChildren(...page.getElementById("main").childNodes);
    return;
  }
  document.getElementById("shown").replaceWith(next);
  const fields = page.getElementById("fields");
  const typing = document.activeElement && document.activeElement.closest("#fields");
  if (fields && !typing) document.getElementById("fields").replaceWith(fields);
  else if (fields) notes(fields);
  if (!body) history.replaceState(null, "", address);
  const again = focused && document.getElementById(focused);
  if (again) again.focus({ preventScroll: true });
  copyButtons();
}

// While somebody is typing the controls stay; only what is said about them is renewed
function notes(fields) {
  for (const box of document.querySelectorAll("#fields [id^=f-]")) {
    const fresh = fields.querySelector(`[id="${box.id}"]`);
    const said = box.nextElementSibling;
    if (said && said.classList.contains("wrong")) said.remove();
    const say = fresh && fresh.nextElementSibling;
    if (say && say.classList.contains("wrong")) box.after(say);
    box.toggleAttribute("aria-invalid", Boolean(fresh && fresh.hasAttribute("aria-invalid")));
  }
}

function submit(form, button) {
  const sent = query(form, button);
  if (form.method === "post") return show(form.action, sent);
  return show(`${form.getAttribute("action")}?${sent}`);
}

// One after the other: Call waits for the change before it, and then sends the bytes that are shown by then
function then(step) {
  last = last.then(step).catch(() => location.reload());
}

document.addEventListener("change", (event) => {
  const form = event.target.form;
  if (form && form.id === "fields") then(() => submit(form, form.querySelector("button[name=tab]")));
});

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (!form.closest(".explorer") || form.getAttribute("role") === "search") return;
  event.preventDefault();
  const button = event.submitter;
  then(() => submit(form.isConnected ? form : document.getElementById(form.id), button));
});

document.addEventListener("click", (event) => {
  const link = event.target.closest(".tabs a, .choices a");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  // a change just before renews the links: the one of the same name knows of it
  const now = () => (link.isConnected ? link : [...document.querySelectorAll(".tabs a, .choices a")].find(
    (each) => each.textContent === link.textContent) || link);
  then(() => show(now().getAttribute("href")));
});

function copyButtons() {
  for (const block of document.querySelectorAll("pre[data-copy]")) {
    if (!navigator.clipboard || block.parentElement.classList.contains("copyable")) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy";
    button.textContent = "Copy";
    button.setAttribute("aria-label", `Copy: ${block.getAttribute("aria-label")}`);
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(block.textContent);
      button.textContent = "Copied";
    });
    const around = document.createElement("div");
    around.className = "copyable";
    block.replaceWith(around);
    around.append(block, button);
  }
}

copyButtons();
