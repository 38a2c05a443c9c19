// Keeps each [data-live] element up to date from its event stream. The fragments are our own server's pages, parsed
// without running anything. Only what differs is touched, so focus, selection and an open drawer stay.
const spoken = Object.assign(document.createElement("p"), { className: "hidden", role: "status" });
document.body.append(spoken);
const parse = (html) => new DOMParser().parseFromString(html, "text/html");
const all = (root, name) => [...root.querySelectorAll(`[${name}]`)].map((each) => each.getAttribute(name));

function adapt(from, to) {
  const wanted = [...to.childNodes];
  wanted.forEach((next, place) => {
    const now = from.childNodes[place];
    if (!now) from.append(next);
    else if (now.nodeName !== next.nodeName || now.id !== next.id) now.replaceWith(next);
    else if (now.nodeType !== Node.ELEMENT_NODE) now.data !== next.data && (now.data = next.data);
    else {
      const given = (name) => name === "open" || next.hasAttribute(name); // an open drawer stays open
      for (const { name } of [...now.attributes]) if (!given(name)) now.removeAttribute(name);
      for (const { name, value } of next.attributes) now.setAttribute(name, value);
      adapt(now, next);
    }
  });
  while (from.childNodes.length > wanted.length) from.lastChild.remove();
}

// After an end other parts of the page are out of date as well: its buttons, its facts. Seldom, whatever happens.
async function renew() {
  if (Date.now() - renewed < 3000) return later();
  renewed = Date.now();
  const answer = await fetch(location.href).catch(() => null);
  if (answer?.redirected) return location.reload(); // to sign in
  if (!answer?.ok) return later();
  adapt(document.getElementById("main"), parse(await answer.text()).getElementById("main"));
  watch();
}

function show(element, html) {
  const next = parse(html).body, jobs = all(next, "data-job"), [newest] = all(next, "data-newest");
  const ended = (next.querySelector("[data-ended]") && !element.querySelector("[data-ended]"))
    || all(element, "data-job").some((job) => !jobs.includes(job))
    || (all(element, "data-newest").some((known) => known !== newest) && !jobs.includes(newest)); // a short one
  const news = [...next.querySelectorAll("[data-said]")].map((each) => [each.id, each.dataset.said])
    .filter(([id, said]) => document.getElementById(id)?.dataset.said !== said);
  if (news.length) spoken.textContent = news.map(([, said]) => said).join(". ");
  adapt(element, next);
  if (ended) renew();
}

let streams = [], timer = 0, renewed = 0;
const later = () => { clearTimeout(timer); timer = setTimeout(renew, 5000); };
function watch() {
  streams.forEach((stream) => stream.close());
  // a page that nobody looks at holds no connection: browsers have six for a host
  streams = document.hidden ? [] : [...document.querySelectorAll("[data-live]")].map((element) => {
    const stream = new EventSource(element.dataset.live);
    stream.addEventListener("rows", (event) => show(element, event.data));
    stream.onerror = () => stream.readyState === EventSource.CLOSED && later(); // refused: signed out, or too many
    return stream;
  });
}
document.addEventListener("visibilitychange", watch), watch();
