// SPDX-License-Identifier: Apache-2.0
// Markdown as document nodes: paragraphs, headings, lists, quotes, tables, rules, fenced code, and inside of lines
// code, emphasis and links. No HTML is read and no image is fetched; only http, https and mailto become links.
// While an answer grows, blocks whose source has not changed keep their nodes (and with them a selection).
import { copyButton, make } from "./dom.js";
import { highlight } from "./highlight.js";

const deepest = 8; // quotes and lists inside each other; below it is text
const fence = /^ {0,3}(`{3,}|~{3,})\s*([^`\s]*)[^`]*$/;
const heading = /^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$/;
const rule = /^ {0,3}([-*_])\s*(?:\1\s*){2,}$/;
const quote = /^ {0,3}> ?/;
const item = /^( *)([-*+]|\d{1,9}[.)])(?:\s+|$)/;
const tableRule = /^ {0,3}\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*$/;

/** Shows text in element, which belongs to this function alone. */
export function renderMarkdown(element, text) {
  const blocks = parse(text.replace(/\r\n?/g, "\n").split("\n"));
  const old = element.renderedBlocks ?? [];
  blocks.forEach((block, at) => {
    block.key = block.type + "\n" + block.lines.join("\n");
    if (old[at]?.key === block.key) {
      block.node = old[at].node;
      return;
    }
    block.node = build(block, 0);
    if (old[at]) old[at].node.replaceWith(block.node);
    else element.append(block.node);
  });
  old.slice(blocks.length).forEach((block) => block.node.remove());
  element.renderedBlocks = blocks;
}

/** Lines -> [{type, lines, ...}]; lines are those of the block without its marks. */
function parse(lines) {
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    const line = lines[at];
    let found;
    if (!line.trim()) {
      ++at;
    } else if ((found = line.match(fence))) {
      const end = new RegExp(`^ {0,3}${found[1][0]}{${found[1].length},}\\s*$`);
      let last = at + 1;
      while (last < lines.length && !end.test(lines[last])) ++last;
      blocks.push({ type: `code ${found[2]}`, language: found[2], lines: lines.slice(at + 1, last) });
      at = last + 1;
    } else if ((found = line.match(heading))) {
      blocks.push({ type: `heading ${found[1].length}`, level: found[1].length, lines: [found[2]] });
      ++at;
    } else if (rule.test(line)) {
      blocks.push({ type: "rule", lines: [] });
      ++at;
    } else if (quote.test(line)) {
      const first = at;
      while (at < lines.length && quote.test(lines[at])) ++at;
      blocks.push({ type: "quote", lines: lines.slice(first, at).map((inner) => inner.replace(quote, "")) });
    } else if (item.test(line)) {
      const first = at;
      at = endOfList(lines, at);
      blocks.push({ type: "list", lines: lines.slice(first, at) });
    } else if (line.includes("|") && at + 1 < lines.length && tableRule.test(lines[at + 1]) && lines[at + 1].includes("-")) {
      const first = at;
      at += 2;
      while (at < lines.length && lines[at].includes("|")) ++at;
      blocks.push({ type: "table", lines: lines.slice(first, at) });
    } else {
      const first = at++;
      while (at < lines.length && !startsBlock(lines[at])) ++at;
      blocks.push({ type: "text", lines: lines.slice(first, at) });
    }
  }
  return blocks;
}

const startsBlock = (line) =>
  !line.trim() || fence.test(line) || heading.test(line) || quote.test(line) || rule.test(line) || item.test(line);

/** A list goes on over items, indented lines, and single empty lines before either. */
function endOfList(lines, first) {
  const indent = lines[first].match(item)[1].length;
  const ordered = /\d/.test(lines[first].match(item)[2]);
  const continues = (line) => {
    const found = line.match(item);
    if (found && found[1].length <= indent + 1) {
      return !rule.test(line) && found[1].length >= indent && /\d/.test(found[2]) === ordered;
    }
    return /^ {2,}\S/.test(line);
  };
  let at = first + 1;
  while (at < lines.length) {
    if (continues(lines[at])) ++at;
    else if (!lines[at].trim() && at + 1 < lines.length && continues(lines[at + 1])) at += 2;
    else if (!startsBlock(lines[at]) && lines[at - 1].trim()) ++at;
    else break;
  }
  return at;
}

function build(block, depth) {
  const { type, lines } = block;
  if (type.startsWith("code")) return codeBlock(lines.join("\n"), block.language);
  // The page's own headings are of levels 1 and 2.
  if (type.startsWith("heading")) return make(`h${Math.min(block.level + 2, 6)}`, {}, ...inline(lines[0]));
  if (type === "rule") return make("hr");
  if (type === "table") return table(lines);
  if (depth >= deepest) return make("p", {}, lines.join("\n"));
  if (type === "quote") return make("blockquote", {}, ...buildAll(lines, depth));
  if (type === "list") return list(lines, depth);
  return make("p", {}, ...withBreaks(lines));
}

const buildAll = (lines, depth) => parse(lines).map((block) => build(block, depth + 1));

function withBreaks(lines) {
  // Emphasis may span lines: they are read as one text.
  const text = lines.map((line) => line.replace(/^\s+/, "").replace(/\\$/, "")).join("\n");
  return inline(text);
}

function list(lines, depth) {
  const [, indent, mark] = lines[0].match(item);
  const items = [];
  for (const line of lines) {
    const found = line.match(item);
    if (found && found[1].length <= indent.length + 1) {
      items.push({ width: found[0].length || 2, lines: [line.slice(found[0].length)] });
    } else {
      const current = items.at(-1);
      const spaces = line.match(/^ */)[0].length;
      current.lines.push(line.slice(Math.min(spaces, current.width)));
    }
  }
  const start = Number.parseInt(mark, 10);
  const element = make(Number.isNaN(start) ? "ul" : "ol", { start: start > 1 && start });
  for (const { lines: inner } of items) {
    const built = buildAll(inner, depth);
    // One paragraph needs no space around it.
    if (built[0]?.tagName === "P") built.splice(0, 1, ...built[0].childNodes);
    element.append(make("li", {}, ...built));
  }
  return element;
}

function cells(line) {
  const inner = line.trim().replace(/^\|/, "").replace(/\|$/, "");
  return inner.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

function table([head, marks, ...rows]) {
  const sides = cells(marks).map((mark) => (mark.endsWith(":") ? (mark.startsWith(":") ? "middle" : "right") : null));
  const row = (name, line) =>
    make("tr", {}, ...cells(line).map((cell, at) => make(name, { class: sides[at] }, ...inline(cell))));
  const body = rows.map((line) => row("td", line));
  const whole = make("table", {}, make("thead", {}, row("th", head)), make("tbody", {}, ...body));
  return make("div", { class: "wide", tabindex: 0, role: "group", "aria-label": "Table" }, whole);
}

function codeBlock(code, language) {
  const bar = make("div", { class: "code-bar" }, make("span", {}, language || "text"), copyButton(() => code, "Copy code"));
  const text = make("code", {}, ...highlight(code, language));
  return make("div", { class: "code" }, bar, make("pre", { tabindex: 0, role: "group", "aria-label": "Code" }, text));
}

// ---- inside of lines

const marks = ["**", "__", "~~", "*", "_"];
const tags = { "**": "strong", __: "strong", "~~": "del", "*": "em", _: "em" };
const isWord = (character) => character !== undefined && /[\p{L}\p{N}]/u.test(character);
const isSpace = (character) => character === undefined || /\s/.test(character);

/** Nodes of a text. Marks wait on a stack until their partner comes; what stays there was text. Linear in time but
    for code spans without an end. */
function inline(text) {
  const stack = [{ mark: "", nodes: [] }];
  let plain = "";
  const put = (node) => stack.at(-1).nodes.push(node);
  const flush = () => {
    if (plain) put(plain);
    plain = "";
  };
  const close = (at) => {
    flush();
    const inner = stack.splice(at);
    const nodes = inner.flatMap((frame, depth) => (depth === 0 ? frame.nodes : [frame.mark, ...frame.nodes]));
    put(make(tags[inner[0].mark], {}, ...nodes));
  };
  let at = 0;
  while (at < text.length) {
    const special = nextSpecial(text, at);
    plain += text.slice(at, special);
    at = special;
    if (at >= text.length) break;
    const character = text[at];
    const taken = character === "\n" ? { node: make("br"), end: at + 1 } : readSpan(text, at);
    if (taken) {
      flush();
      put(taken.node);
      at = taken.end;
      continue;
    }
    if (character === "\\" && /[!-/:-@[-`{-~]/.test(text[at + 1] ?? "")) {
      plain += text[at + 1];
      at += 2;
      continue;
    }
    const isTriple = /^(\*\*\*|___)(?!\1)/.test(text.slice(at, at + 4)) && stack.at(-1).mark[0] === character;
    const mark = isTriple ? stack.at(-1).mark : marks.find((one) => text.startsWith(one, at));
    if (!mark) {
      plain += character;
      ++at;
      continue;
    }
    const before = text[at - 1], after = text[at + mark.length];
    const isOpen = stack.findLastIndex((frame) => frame.mark === mark);
    const under = mark[0] === "_";
    if (isOpen > 0 && !isSpace(before) && !(under && isWord(after))) {
      close(isOpen);
    } else if (!isSpace(after) && !(under && isWord(before)) && stack.length < 64) {
      flush();
      stack.push({ mark, nodes: [] });
    } else {
      plain += mark;
    }
    at += mark.length;
  }
  flush();
  return stack.flatMap((frame) => (frame.mark ? [frame.mark, ...frame.nodes] : frame.nodes));
}

const specials = /[\\`*_~[\n!<]|https?:\/\//g;

function nextSpecial(text, from) {
  specials.lastIndex = from;
  return specials.exec(text)?.index ?? text.length;
}

/** A code span or a link that begins at this place, or null. */
function readSpan(text, at) {
  if (text[at] === "`") {
    const run = text.slice(at).match(/^`+/)[0];
    let end = at + run.length;
    while ((end = text.indexOf(run, end)) >= 0) {
      const after = text.slice(end).match(/^`+/)[0].length;
      if (after === run.length) {
        const inner = text.slice(at + run.length, end).replaceAll("\n", " ");
        const trimmed = /^ .*\S.* $/.test(inner) ? inner.slice(1, -1) : inner;
        return { node: make("code", {}, trimmed), end: end + run.length };
      }
      end += after;
    }
    return { node: document.createTextNode(run), end: at + run.length };
  }
  const rest = text.slice(at, at + 2500);
  let found;
  if ((found = rest.match(/^!?\[((?:[^[\]\\\n]|\\.){1,400})\]\(<?((?:[^\s()<>]|\([^\s()<>]{0,200}\)){1,2000})>?(?:\s+"[^"\n]*")?\)/))) {
    return link(found[1].replace(/\\(.)/g, "$1"), found[2], at + found[0].length);
  }
  if ((found = rest.match(/^<((?:https?:\/\/|mailto:)[^\s<>]{1,2000})>/))) {
    return link(found[1], found[1], at + found[0].length);
  }
  if ((found = rest.match(/^https?:\/\/[^\s<>"`*]{1,2000}/))) {
    const address = found[0].replace(/[.,;:!?'"\])]+$/, "");
    return link(address, address, at + address.length);
  }
  return null;
}

function link(text, address, end) {
  let url = null;
  try {
    url = new URL(address);
  } catch {
    // A relative address would lead to this server.
  }
  const isSafe = url !== null && ["http:", "https:", "mailto:"].includes(url.protocol);
  const node = isSafe
    ? make("a", { href: url.href, target: "_blank", rel: "noopener noreferrer" }, text)
    : document.createTextNode(text === address ? text : `${text} (${address})`);
  return { node, end };
}
