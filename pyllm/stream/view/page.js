"use strict";
(() => {
  const at = (id) => document.getElementById(id);
  const data = JSON.parse(at("data").textContent);

  const numbers = (Kind, text) => {
    const raw = atob(text);
    const bytes = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
    return new Kind(bytes.buffer);
  };
  const nats = numbers(Float32Array, data.nats);
  const went = numbers(Int32Array, data.went);
  const worth = numbers(Float32Array, data.worth);
  const { texts, ends, labels, answers, departures, rules, pins, notes, top } = data;
  const count = nats.length;
  const turns = ends.length;
  const LEVELS = 8;
  const BLOCK = 400;
  const NEVER = 2 ** 31 - 1;

  const turnOf = new Int32Array(count);
  const left = new Int32Array(count);
  const level = new Uint8Array(count);
  for (let i = 0, turn = 0; i < count; i++) {
    while (i >= ends[turn]) turn++;
    turnOf[i] = turn;
    left[i] = went[i] < 0 ? NEVER : departures[went[i]].turn;
    level[i] = Math.min(LEVELS - 1, Math.floor(LEVELS * Math.sqrt(Math.max(0, nats[i]) / top)));
  }
  const goneIn = new Int32Array(turns);
  for (let i = 0; i < count; i++) if (left[i] !== NEVER) goneIn[left[i]]++;
  const goneBy = new Int32Array(turns);
  for (let turn = 0, sum = 0; turn < turns; turn++) goneBy[turn] = sum += goneIn[turn];

  const state = { now: turns - 1, token: -1, stuck: false, matches: [], match: -1 };
  const pinned = new Uint8Array(count);
  const hit = new Uint8Array(count);
  const grouped = new Intl.NumberFormat("en").format;
  const short = (value) => (value >= 100 ? value.toFixed(0) : value >= 0.1 ? value.toFixed(2) : value.toPrecision(2));
  const startOf = (turn) => (turn ? ends[turn - 1] : 0);

  // What a token shows: nothing in it may steer the page or its direction of writing.
  const HARMFUL = /[\u0080-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g;
  const shown = (i) => {
    if (!texts) return "▪";
    const text = texts[i];
    if (text === "") return "·";
    const plain = text
      .replace(/\n/g, "↵")
      .replace(/\t/g, "⇥")
      .replace(/[\u0000-\u001f]/g, (c) => String.fromCharCode(0x2400 + c.charCodeAt(0)))
      .replace(/\u007f/g, "\u2421")
      .replace(HARMFUL, "\ufffd")
      .replace(/\p{Surrogate}/gu, "\ufffd");
    const next = i + 1 < count && turnOf[i + 1] === turnOf[i] ? texts[i + 1] : "\n";
    return text.endsWith("\n") && !next.startsWith("\n") ? plain + "\n" : plain;
  };

  const classOf = (i) => {
    let name = "l" + level[i];
    if (left[i] <= state.now) name += left[i] === state.now ? " gone now" : " gone";
    else if (pinned[i]) name += " pin";
    if (hit[i]) name += " hit";
    if (i === state.token) name += " me";
    if (texts && texts[i] === "") name += " part";
    return name;
  };

  // Every turn has its place on the page; the tokens of a block are there only while it is near the window.
  const made = (kind, name, text) => {
    const node = document.createElement(kind);
    if (name) node.className = name;
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const blocks = [];
  const firstBlock = [];
  const sections = [];
  const build = () => {
    const main = at("tokens");
    const page = document.createDocumentFragment();
    const across = Math.max(20, Math.floor((main.clientWidth - 70) / 9));
    for (let turn = 0; turn < turns; turn++) {
      const section = made("section");
      const head = section.appendChild(made("h2", "", `turn ${labels[turn]} `));
      const held = head.appendChild(made("small"));
      sections.push({ section, held });
      firstBlock.push(blocks.length);
      const answer = answers[turn];
      const borders = answer ? [startOf(turn), answer[0], answer[1], ends[turn]] : [startOf(turn), ends[turn]];
      const roles = answer ? ["asked", "answered", "closing"] : [""];
      let high = 3;
      for (let part = 0; part + 1 < borders.length; part++) {
        for (let from = borders[part]; from < borders[part + 1]; from += BLOCK) {
          const to = Math.min(from + BLOCK, borders[part + 1]);
          const node = section.appendChild(made("div", "block"));
          node.dataset.role = from === borders[part] ? roles[part] : "";
          const text = node.appendChild(made("div", "text"));
          let letters = 0;
          for (let i = from; i < to; i++) letters += texts ? Math.max(1, texts[i].length) : 1;
          const lines = Math.ceil(letters / across);
          text.style.minHeight = `${lines * 1.75}em`;
          high += lines * 1.75 + 0.3;
          const block = { turn, from, to, text, filled: false };
          text.block = block;
          blocks.push(block);
        }
      }
      for (const [behind, what] of notes) if (behind === turn) section.appendChild(made("p", "note", what));
      section.style.containIntrinsicSize = `auto ${high}em`;
      page.appendChild(section);
    }
    main.replaceChildren(page);
  };
  const fill = (block) => {
    if (block.filled) return;
    block.filled = true;
    const page = document.createDocumentFragment();
    for (let i = block.from; i < block.to; i++) {
      const token = made("span", classOf(i), shown(i));
      token.token = i;
      page.appendChild(token);
    }
    block.text.replaceChildren(page);
    block.text.style.minHeight = "";
    tellHeld(block.turn);
  };
  const empty = (block) => {
    if (!block.filled || block.from <= state.token && state.token < block.to) return;
    block.filled = false;
    block.text.style.minHeight = block.text.offsetHeight + "px";
    block.text.replaceChildren();
  };
  const refresh = () => {
    for (const block of blocks) {
      if (!block.filled || block.turn > state.now) continue;
      for (const token of block.text.children) {
        const name = classOf(token.token);
        if (token.className !== name) token.className = name;
      }
      tellHeld(block.turn);
    }
  };
  const tellHeld = (turn) => {
    let held = 0;
    for (let i = startOf(turn); i < ends[turn]; i++) held += left[i] > state.now;
    sections[turn].held.textContent = `· ${grouped(held)} of ${grouped(ends[turn] - startOf(turn))} held`;
  };
  const blockOf = (i) => {
    let number = firstBlock[turnOf[i]];
    while (blocks[number].to <= i) number++;
    return blocks[number];
  };

  const draw = () => {
    const canvas = at("map");
    const scale = window.devicePixelRatio || 1;
    const wide = Math.max(1, Math.round(canvas.clientWidth * scale));
    const high = Math.max(1, Math.round(canvas.clientHeight * scale));
    if (canvas.width !== wide || canvas.height !== high) Object.assign(canvas, { width: wide, height: high });
    const pen = canvas.getContext("2d");
    const colours = getComputedStyle(document.documentElement);
    const [hot, line, dim] = ["--hot", "--line", "--dim"].map((name) => colours.getPropertyValue(name));
    pen.clearRect(0, 0, wide, high);
    const shownTokens = ends[state.now];
    const step = Math.max(1, Math.floor(scale));
    for (let x = 0; x < wide; x += step) {
      const from = Math.floor((x * count) / wide);
      const to = Math.min(shownTokens, Math.max(from + 1, Math.floor(((x + step) * count) / wide)));
      if (from >= shownTokens) break;
      let held = 0, heat = 0;
      for (let i = from; i < to; i++) if (left[i] > state.now) { held++; heat += level[i]; }
      const share = held / (to - from);
      pen.globalAlpha = 0.45;
      pen.fillStyle = line;
      pen.fillRect(x, high - 2 * scale, step, 2 * scale);
      if (held) {
        pen.globalAlpha = 0.3 + (0.7 * heat) / held / (LEVELS - 1);
        pen.fillStyle = hot;
        pen.fillRect(x, high - Math.max(2 * scale, share * high), step, Math.max(2 * scale, share * high));
      }
    }
    pen.globalAlpha = 1;
    pen.fillStyle = dim;
    pen.fillRect(Math.min(wide - scale, Math.round((shownTokens * wide) / count)), 0, scale, high);
  };

  const showTurn = (turn) => {
    const before = state.now;
    state.now = Math.max(0, Math.min(turns - 1, turn));
    for (let each = Math.min(before, state.now); each <= Math.max(before, state.now); each++) {
      sections[each].section.hidden = each > state.now;
    }
    pinned.fill(0);
    for (const [behind, on, ranges] of pins) {
      if (behind > state.now) break;
      if (!on) pinned.fill(0);
      for (const [from, to] of ranges) pinned.fill(1, from, to);
    }
    const read = ends[state.now];
    const gone = goneIn[state.now];
    at("scrub").value = state.now;
    at("scrub").setAttribute("aria-valuetext", `turn ${labels[state.now]}`);
    at("where").textContent =
      `turn ${labels[state.now]} of ${labels[turns - 1]} · ${grouped(read - goneBy[state.now])} of ${grouped(read)} tokens held`;
    at("where").href = `#turn=${labels[state.now]}`;
    at("went").textContent = gone ? `${grouped(gone)} went in this turn` : "nothing went in this turn";
    at("went").disabled = !gone;
    at("back").disabled = state.now === 0;
    at("on").disabled = state.now === turns - 1;
    search(false);
    refresh();
    draw();
    if (state.token >= read) choose(-1);
    else tell(state.token);
  };

  const whyGone = (i) => {
    const { coming, cut, in_nats: inNats, forgotten, rule } = departures[went[i]];
    const when = `In turn ${labels[left[i]]}, `;
    if (forgotten) return `Behind turn ${labels[left[i]]} it was forgotten on command.`;
    const { policy, tokens } = rules[rule];
    const room = coming ? `room was made for ${grouped(coming)} tokens` : "room was made";
    const start = `${when}${room} in a cache of ${grouped(tokens)} by policy ${policy}. `;
    if (policy === "window" || policy === "streaming") return start + "Only the newest stay, and it was not among them.";
    if (policy.startsWith("interval")) return start + "It stood between the ones that are kept at distances.";
    if (policy === "random") return start + "It was not among those drawn.";
    if (Number.isNaN(worth[i])) return start;
    const unit = inNats ? " nats" : " in the policy's own measure";
    const own = `Its score was then ${short(worth[i])}${unit}`;
    if (cut === null) return start + own + "; no room was left for any score.";
    const tie = worth[i].toPrecision(4) === cut.toPrecision(4);
    return start + own + (tie ? ", a tie with the lowest that stayed." : `; the lowest that stayed for its score had ${short(cut)}.`);
  };
  const tell = (i) => {
    const panel = at("detail");
    panel.hidden = i < 0;
    if (i < 0) return;
    const rows = [["position", `@${i}`], ["turn", `${labels[turnOf[i]]}${roleOf(i)}`], ["surprisal", `${short(nats[i])} nats as it was read`]];
    const age = state.now - turnOf[i];
    rows.push(["age", age === 1 ? "1 turn" : `${grouped(age)} turns`]);
    const there = left[i] > state.now;
    const rule = rules[data.rule_of[state.now]];
    if (there) {
      const why = pinned[i] ? ", pinned" : i < rule.sinks && rule.policy !== "window" && rule.policy !== "full" ? ", a sink" : "";
      rows.push(["now", `held${why}`]);
      if (left[i] !== NEVER) rows.push(["goes in", `turn ${labels[left[i]]}`]);
    } else rows.push(["went in", `turn ${labels[left[i]]}`]);
    const close = made("button", "", "×");
    close.type = "button";
    close.setAttribute("aria-label", "close");
    close.onclick = () => choose(-1);
    const list = made("dl");
    for (const [name, value] of rows) list.append(made("dt", "", name), made("dd", "", value));
    const name = texts ? (texts[i] === "" ? "part of a character" : JSON.stringify(texts[i]).replace(HARMFUL, "\ufffd")) : `token @${i}`;
    panel.replaceChildren(close, made("p", "name", name), list);
    if (left[i] !== NEVER) panel.append(made("p", "", whyGone(i)));
  };
  const roleOf = (i) => {
    const answer = answers[turnOf[i]];
    return !answer ? "" : i < answer[0] ? ", asked" : i < answer[1] ? ", answered" : ", closing";
  };
  const choose = (i, stuck = false) => {
    state.token = i;
    state.stuck = stuck && i >= 0;
    for (const old of document.querySelectorAll(".me")) old.className = classOf(old.token);
    if (i >= 0) {
      const block = blockOf(i);
      if (block.filled) block.text.children[i - block.from].className = classOf(i);
    }
    tell(i);
  };
  // Filled at once, so that the page does not move when the observer comes to it.
  const fillFrom = (number) => {
    for (let tokens = 0; number < blocks.length && tokens < 1500 && blocks[number].turn <= state.now; number++) {
      fill(blocks[number]);
      tokens += blocks[number].to - blocks[number].from;
    }
  };
  const showSection = (turn) => {
    fillFrom(firstBlock[turn]);
    sections[turn].section.scrollIntoView({ block: "start" });
  };
  const goTo = (i) => {
    const block = blockOf(i);
    fillFrom(blocks.indexOf(block));
    choose(i, true);
    block.text.children[i - block.from].scrollIntoView({ block: "center" });
  };

  // Search runs over the joined text, so that a match may begin and end within tokens.
  let joined = null;
  let offsets = null;
  const prepareSearch = () => {
    const parts = texts.map((text) => text.toLowerCase());
    offsets = new Int32Array(count + 1);
    parts.forEach((part, i) => { offsets[i + 1] = offsets[i] + part.length; });
    joined = parts.join("");
  };
  const tokenAt = (offset) => {
    let low = 0, high = count;
    while (low + 1 < high) {
      const middle = (low + high) >> 1;
      if (offsets[middle] <= offset) low = middle;
      else high = middle;
    }
    return low;
  };
  const search = (jump) => {
    const wanted = at("find").value.toLowerCase();
    hit.fill(0);
    state.matches = [];
    state.match = -1;
    const position = /^@(\d+)$/.exec(wanted);
    const read = ends[state.now];
    if (position) {
      if (Number(position[1]) < read) state.matches.push(Number(position[1]));
    } else if (wanted && texts) {
      if (!joined) prepareSearch();
      let from = joined.indexOf(wanted);
      while (from >= 0 && from < offsets[read] && state.matches.length < 10000) {
        const first = tokenAt(from);
        const last = tokenAt(from + wanted.length - 1);
        if (state.matches[state.matches.length - 1] !== first) state.matches.push(first);
        hit.fill(1, first, Math.min(read, last + 1));
        from = joined.indexOf(wanted, from + wanted.length);
      }
    }
    tellMatches();
    if (jump) {
      refresh();
      if (state.matches.length) move(1);
    }
  };
  const tellMatches = () => {
    const found = state.matches.length;
    const asked = at("find").value !== "" || found > 0;
    at("hits").textContent = !asked ? "" : found ? `${grouped(state.match + 1)} / ${grouped(found)}` : "none";
    at("up").disabled = at("down").disabled = !found;
  };
  const move = (by) => {
    const found = state.matches.length;
    if (!found) return;
    state.match = (state.match + by + found + (state.match < 0 && by < 0 ? 1 : 0)) % found;
    tellMatches();
    goTo(state.matches[state.match]);
  };
  const showGone = () => {
    at("find").value = "";
    hit.fill(0);
    state.matches = [];
    for (let i = 0; i < ends[state.now]; i++) if (left[i] === state.now) state.matches.push(i);
    state.match = -1;
    refresh();
    move(1);
  };

  const legend = () => {
    const row = at("legend");
    const scale = made("span", "scale");
    for (let each = 0; each < LEVELS; each++) {
      scale.appendChild(made("span", "l" + each, String(Number((top * (each / LEVELS) ** 2).toPrecision(2)))));
    }
    row.append(made("span", "", "nats from"), scale);
    row.append(made("span", "", "held"), made("span", "gone", "gone"), made("span", "gone now", "went in this turn"));
    if (pins.length) row.append(made("span", "pin", "pinned"));
    row.append(made("span", "tip", "hover or tap a token for why"));
  };

  const openFragment = () => {
    const wanted = new URLSearchParams(location.hash.slice(1));
    if (wanted.has("held")) at("only").checked = wanted.get("held") === "1";
    at("tokens").classList.toggle("only", at("only").checked);
    if (wanted.has("find")) at("find").value = wanted.get("find");
    const turn = labels.indexOf(Number(wanted.get("turn")));
    showTurn(wanted.has("turn") && turn >= 0 ? turn : state.now);
    const token = Number(wanted.get("token"));
    if (wanted.has("token") && Number.isInteger(token) && token >= 0 && token < ends[state.now]) goTo(token);
    else if (wanted.has("find")) search(true);
    else if (wanted.has("turn") && turn >= 0) showSection(turn);
    else fillFrom(0);
  };
  const scrubTo = (turn) => {
    showTurn(turn);
    history.replaceState(null, "", `#turn=${labels[state.now]}`);
  };

  build();
  legend();
  at("scrub").max = turns - 1;
  if (!texts) at("find").placeholder = "find @position";
  at("scrub").addEventListener("input", (event) => scrubTo(Number(event.target.value)));
  at("back").addEventListener("click", () => scrubTo(state.now - 1));
  at("on").addEventListener("click", () => scrubTo(state.now + 1));
  at("went").addEventListener("click", showGone);
  at("only").addEventListener("change", (event) => at("tokens").classList.toggle("only", event.target.checked));
  at("find").addEventListener("input", () => search(true));
  at("find").addEventListener("keydown", (event) => { if (event.key === "Enter") move(event.shiftKey ? -1 : 1); });
  at("up").addEventListener("click", () => move(-1));
  at("down").addEventListener("click", () => move(1));
  at("where").addEventListener("click", (event) => {
    event.preventDefault();
    showSection(state.now);
  });
  at("map").addEventListener("click", (event) => {
    const box = event.target.getBoundingClientRect();
    goTo(Math.max(0, Math.min(ends[state.now] - 1, Math.floor(((event.clientX - box.left) / box.width) * count))));
  });
  at("tokens").addEventListener("pointerover", (event) => {
    if (event.pointerType === "mouse" && !state.stuck && event.target.token !== undefined) choose(event.target.token);
  });
  at("tokens").addEventListener("click", (event) => {
    const token = event.target.token;
    if (token === undefined || state.stuck && token === state.token) choose(-1);
    else choose(token, true);
  });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") choose(-1); });
  window.addEventListener("hashchange", openFragment);
  window.addEventListener("resize", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  const near = new IntersectionObserver((seen) => {
    for (const entry of seen) (entry.isIntersecting ? fill : empty)(entry.target.block);
  }, { rootMargin: "1200px" });
  for (const block of blocks) near.observe(block.text);
  openFragment();
  at("tokens").dataset.drawnMs = Math.round(performance.now());
})();
