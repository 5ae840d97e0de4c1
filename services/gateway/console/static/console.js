"use strict";
// Keeps the page live: any event asks for the page's state again, soon and at most once at a time;
// a slow poll does the same without any event. What has not changed is left alone.
(() => {
  const SOON_MS = Number(document.body.dataset.soonMs);
  const POLL_MS = 10000;
  const FEED_LINES = 12;
  const live = document.getElementById("live");
  const link = document.getElementById("link");
  const linkText = document.getElementById("link-text");
  const feed = document.getElementById("feed");
  let timer = 0;
  let busy = false;
  let again = false;

  function say(state, text) {
    link.dataset.state = state;
    if (linkText.textContent !== text) linkText.textContent = text;
  }

  function soon() {
    if (busy) { again = true; return; }
    if (!timer) timer = setTimeout(refresh, SOON_MS);
  }

  async function refresh() {
    timer = 0;
    busy = true;
    try {
      const answer = await fetch(document.body.dataset.state, { credentials: "same-origin", signal: AbortSignal.timeout(15000) });
      if (answer.status === 401) { location.assign("/login"); return; }
      if (answer.ok) {
        const fresh = document.createElement("template");
        fresh.innerHTML = await answer.text();
        merge(live, fresh.content);
        sayHowNear();
        live.dispatchEvent(new Event("merged"));
      }
    } catch {
      say("down", "no answer");
    } finally {
      busy = false;
      if (again) { again = false; soon(); }
    }
  }

  // What is on the page stays and takes on what differs, so that focus, open details and typed text survive.
  // Children of lists are matched by id, all others by place. What has data-own is its script's own business.
  function merge(old, fresh) {
    const before = parts(old);
    const after = parts(fresh);
    const alike = before.length === after.length
      && before.every((was, at) => was.nodeName === after[at].nodeName && was.id === after[at].id);
    if (alike) before.forEach((was, at) => adopt(was, after[at])); else old.replaceChildren(...fresh.childNodes);
  }

  function parts(node) {
    return [...node.childNodes].filter((each) => each.nodeType !== Node.TEXT_NODE || each.data.trim());
  }

  function adopt(was, node) {
    if (was.nodeType !== Node.ELEMENT_NODE) {
      if (was.data !== node.data) was.data = node.data;
      return;
    }
    if (was.hasAttribute("data-own") || was.isEqualNode(node)) return;
    attributes(was, node);
    if (was.hasAttribute("data-list")) mergeList(was, node); else merge(was, node);
  }

  const OWN = new Set(["open", "tabindex"]);
  function attributes(was, node) {
    for (const { name } of [...was.attributes]) {
      if (!node.hasAttribute(name) && !OWN.has(name)) was.removeAttribute(name);
    }
    for (const { name, value } of node.attributes) {
      if (was.getAttribute(name) !== value && !OWN.has(name)) was.setAttribute(name, value);
    }
  }

  function mergeList(list, fresh) {
    const known = new Map([...list.children].map((node) => [node.id, node]));
    const next = [...fresh.children].map((node) => {
      const was = known.get(node.id);
      if (was && bare(was) === bare(node)) return was;
      if (!was) { node.classList.add("changed"); return node; }
      adopt(was, node);
      was.classList.remove("changed");
      void was.offsetWidth; // or the animation would not begin anew
      was.classList.add("changed");
      return was;
    });
    const same = next.length === list.children.length && next.every((node, at) => node === list.children[at]);
    if (!same) list.replaceChildren(...next);
  }

  function bare(node) {
    const copy = node.cloneNode(true);
    copy.classList.remove("changed");
    copy.removeAttribute("tabindex");
    for (const time of copy.querySelectorAll("time[data-near]")) time.textContent = "";
    return copy.outerHTML;
  }

  // Times that are told by how far off they are; without this script they are told by the clock.
  const UNITS = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  function sayHowNear() {
    for (const time of document.querySelectorAll("time[data-near]")) {
      const off = Math.round((Date.parse(time.dateTime) - Date.now()) / 1000);
      const [unit, size] = UNITS.find(([, each]) => Math.abs(off) >= 2 * each) || ["s", 1];
      const text = `${Math.round(Math.abs(off) / size)} ${unit}`;
      const told = Math.abs(off) < 2 ? "now" : off > 0 ? `in ${text}` : `${text} ago`;
      if (time.textContent !== told) time.textContent = told;
    }
  }

  function show(event) {
    if (!feed) return;
    let told;
    try { told = JSON.parse(event.data); } catch { return; }
    const line = document.createElement("li");
    const time = document.createElement("time");
    const when = new Date(told.time * 1000);
    time.dateTime = when.toISOString();
    time.textContent = when.toLocaleTimeString();
    const topic = document.createElement("b");
    topic.textContent = told.topic;
    const about = document.createElement("span");
    const extra = told.data.reason || told.data.message || told.data.summary || told.data.state || "";
    about.textContent = extra ? `${told.subject}: ${extra}` : told.subject;
    line.append(time, " ", topic, " ", about);
    feed.querySelector(".none")?.remove();
    feed.prepend(line);
    while (feed.children.length > FEED_LINES) feed.lastElementChild.remove();
  }

  const source = new EventSource(document.body.dataset.events);
  source.onopen = () => { say("up", "live"); soon(); };
  source.onerror = () => {
    say("down", "connecting again");
    if (source.readyState === EventSource.CLOSED) setTimeout(() => location.reload(), 5000);
  };
  for (const topic of document.body.dataset.topics.split(" ")) {
    source.addEventListener(topic, (event) => { show(event); soon(); });
  }
  setInterval(soon, POLL_MS);
  setInterval(sayHowNear, 1000);
  sayHowNear();
})();
