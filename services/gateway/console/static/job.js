"use strict";
// What a run under way writes, as it writes it. Without this script the page itself tells the last lines.
(() => {
  const LINES = 1000;
  const live = document.getElementById("live");
  let followed = null;
  let ending = null;

  function look() {
    const pre = live.querySelector("pre[data-follow]");
    if (pre === followed) return;
    ending?.abort();
    followed = pre;
    if (pre) follow(pre, ending = new AbortController());
  }

  async function follow(pre, end) {
    try {
      const answer = await fetch(pre.dataset.follow, { credentials: "same-origin", signal: end.signal });
      if (!answer.ok) return;
      await show(pre, answer.body.pipeThrough(new TextDecoderStream()).getReader());
    } catch {
      // It is tried again when the page has looked again.
    } finally {
      delete pre.dataset.own;
      if (followed === pre) followed = null;
    }
  }

  async function show(pre, reader) {
    let lines = [];
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      pre.dataset.own = ""; // the page leaves it alone from now on
      const whole = (rest + value).split("\n");
      rest = whole.pop();
      for (const each of whole) if (each) lines.push(JSON.parse(each).line);
      lines = lines.slice(-LINES);
      const atEnd = pre.scrollHeight - pre.scrollTop - pre.clientHeight < 8;
      pre.textContent = lines.join("\n");
      if (atEnd) pre.scrollTop = pre.scrollHeight;
    }
  }

  live.addEventListener("merged", look);
  look();
})();
