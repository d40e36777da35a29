"use strict";
// The page asks for itself and takes over what differs: what is shown is made in one place, the daemon.
(() => {
  const PERIOD = 2000;
  const PATIENCE = 15000;
  // A handle may take longer than what is only looked up.
  const WORK_PATIENCE = 30000;
  const KEY = "penstock-token";
  const by = (id) => document.getElementById(id);
  const live = by("live");

  const say = (words) => {
    by("said").textContent = words;
    by("said").hidden = !words;
  };

  const ask = (path, method = "GET", body = undefined) => {
    const token = sessionStorage.getItem(KEY);
    return fetch(path, {
      method,
      headers: token ? { Authorization: `Bearer ${token}` } : {},
      body: body && JSON.stringify(body),
      cache: "no-store",
      signal: AbortSignal.timeout(method === "GET" ? PATIENCE : WORK_PATIENCE),
    });
  };

  const complaint = async (answer) => {
    const told = await answer.json().catch(() => ({}));
    return told.message ?? `The daemon answered ${answer.status}.`;
  };

  // Makes `old` equal to `fresh` and leaves alone what is equal, so that focus, selection and a button under a finger stay.
  const become = (old, fresh) => {
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
      return;
    }
    if (old.hasAttribute("data-keep")) return;
    for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
    for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    let at = old.firstChild;
    for (const next of [...fresh.childNodes]) {
      const alike = at && at.nodeName === next.nodeName && !at.id ? at : undefined;
      const known = next.id ? [...old.children].find((child) => child.id === next.id) : alike;
      if (!known) {
        old.insertBefore(document.importNode(next, true), at);
      } else {
        if (known === at) at = at.nextSibling;
        else old.insertBefore(known, at);
        become(known, next);
      }
    }
    while (at) {
      const gone = at;
      at = at.nextSibling;
      gone.remove();
    }
  };

  // What the daemon lets us see decides which forms there are.
  const arrange = () => {
    const { access } = live.dataset;
    const held = sessionStorage.getItem(KEY) !== null;
    by("unlock").hidden = access !== "numbers";
    by("forget").hidden = !held;
    by("token-section").hidden = access !== "numbers" && !held;
    if (by("start")) by("start").hidden = false;
  };

  // Jobs that were started or cancelled here: how they end is said once.
  const watched = new Set();
  const tell = () => {
    for (const id of watched) {
      const row = by(`job-${id}`);
      if (!row || ["pending", "running"].includes(row.dataset.status)) continue;
      watched.delete(id);
      say(`Job ${id} is over: ${row.querySelector(".state").textContent}; repositories: ${row.querySelector(".repos").textContent}.`);
    }
  };

  let asked = 0;
  let shown = 0;
  const refresh = async () => {
    const mine = ++asked;
    try {
      const answer = await ask("./");
      if (answer.status === 401) {
        // Asked once: a token that is not known is not sent again.
        sessionStorage.removeItem(KEY);
        say(await complaint(answer));
      } else if (!answer.ok) {
        throw new Error(await complaint(answer));
      } else {
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        if (mine < shown) return;
        shown = mine;
        become(live, page.getElementById("live"));
        by("stale").hidden = true;
        tell();
      }
    } catch (error) {
      if (mine < shown) return;
      by("stale").textContent = `These numbers are old: ${error.message}`;
      by("stale").hidden = false;
    }
    arrange();
  };

  const change = async (path, body) => {
    try {
      const answer = await ask(path, "POST", body);
      if (!answer.ok) {
        say(await complaint(answer));
        return undefined;
      }
      return await answer.json();
    } catch {
      say("The daemon does not answer.");
      return undefined;
    }
  };

  const start = async (form) => {
    const account = by("account").value.trim().replace(/^(at:\/\/|@)/, "");
    const days = by("days").value;
    const body = account.startsWith("did:") ? { did: account } : { handle: account };
    if (days !== "") body.days = Number(days);
    const button = form.querySelector("button");
    button.disabled = true;
    say(`Starting a job for ${account}.`);
    const begun = await change("admin/backfill", body);
    button.disabled = false;
    if (!begun) return;
    say(begun.message);
    if (begun.id) watched.add(begun.id);
    form.reset();
    await refresh();
  };

  document.addEventListener("submit", (event) => {
    event.preventDefault();
    if (event.target.id === "start") start(event.target);
    if (event.target.id === "unlock") {
      sessionStorage.setItem(KEY, by("token").value.trim());
      by("token").value = "";
      say("");
      refresh();
    }
  });

  document.addEventListener("click", async (event) => {
    const id = event.target.closest("[data-cancel]")?.dataset.cancel;
    if (id && confirm(`Cancel job ${id}?`)) {
      watched.add(id);
      if (await change(`admin/backfill/${id}/cancel`)) await refresh();
    }
    if (event.target.id === "forget") {
      sessionStorage.removeItem(KEY);
      say("");
      refresh();
    }
  });

  const follow = async () => {
    if (!document.hidden) await refresh();
    setTimeout(follow, PERIOD);
  };
  document.addEventListener("visibilitychange", () => document.hidden || refresh());
  follow();
})();
