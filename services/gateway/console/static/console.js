"use strict";
// Keeps the page live: any event asks for the page's state again, soon and at most once at a time;
// a slow poll does the same without any event. What has not changed is left alone.
(() => {
  const SOON_MS = 200;
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
      const answer = await fetch("/console/state", { credentials: "same-origin", signal: AbortSignal.timeout(15000) });
      if (answer.status === 401) { location.assign("/login"); return; }
      if (answer.ok) {
        const fresh = document.createElement("template");
        fresh.innerHTML = await answer.text();
        merge(live, fresh.content);
      }
    } catch {
      say("down", "no answer");
    } finally {
      busy = false;
      if (again) { again = false; soon(); }
    }
  }

  // Top-level parts are matched by place, children of lists by id; only what differs is replaced.
  function merge(old, fresh) {
    const before = [...old.children];
    const after = [...fresh.children];
    if (before.length !== after.length) { old.replaceChildren(...after); return; }
    after.forEach((node, at) => {
      const was = before[at];
      if (was.outerHTML === node.outerHTML) return;
      const lists = [...was.querySelectorAll("[data-list]")];
      const freshLists = [...node.querySelectorAll("[data-list]")];
      if (!lists.length || lists.length !== freshLists.length || shell(was) !== shell(node)) {
        was.replaceWith(node);
      } else {
        lists.forEach((list, n) => mergeList(list, freshLists[n]));
      }
    });
  }

  function shell(node) {
    const copy = node.cloneNode(true);
    copy.querySelectorAll("[data-list]").forEach((list) => list.replaceChildren());
    return copy.outerHTML;
  }

  function mergeList(list, fresh) {
    const known = new Map([...list.children].map((node) => [node.id, node]));
    const next = [...fresh.children].map((node) => {
      const was = known.get(node.id);
      if (was && bare(was) === node.outerHTML) return was;
      node.classList.add("changed");
      return node;
    });
    list.replaceChildren(...next);
  }

  function bare(node) {
    const copy = node.cloneNode(true);
    copy.classList.remove("changed");
    return copy.outerHTML;
  }

  function show(event) {
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

  const source = new EventSource("/console/events");
  source.onopen = () => { say("up", "live"); soon(); };
  source.onerror = () => {
    say("down", "connecting again");
    if (source.readyState === EventSource.CLOSED) setTimeout(() => location.reload(), 5000);
  };
  for (const topic of document.body.dataset.topics.split(" ")) {
    source.addEventListener(topic, (event) => { show(event); soon(); });
  }
  setInterval(soon, POLL_MS);
})();
