// SPDX-License-Identifier: Apache-2.0
// Colours in code that fit most languages well enough: comments, strings, numbers, words that languages reserve.
// One regular expression per family of comments; anything it does not know stays text.

const words = new Set(
  `abstract and as assert async await auto bool boolean break case catch char class const constexpr continue def
  default del delete do done double elif else elsif end enum esac except export extends extern false fi final finally
  float fn for from func function global go if impl implements import in include inline instanceof int interface is
  lambda let local long loop match mod mut namespace new nil none None not null nullptr of operator or override package
  pass private protected pub public raise range ref return select self short signed sizeof static std string struct
  super switch template then this throw true True False try type typedef typename typeof undefined union unsafe
  unsigned until use using val var virtual void volatile when where while with yield SELECT FROM WHERE INSERT INTO
  UPDATE DELETE CREATE TABLE JOIN LEFT RIGHT INNER ON GROUP BY ORDER LIMIT AND OR NOT NULL VALUES SET AS`.split(/\s+/),
);

const hashComments = /^(py|python|sh|bash|shell|zsh|console|ruby|rb|yaml|yml|toml|r|perl|pl|make|makefile|cmake|dockerfile|ini|conf)$/i;
const dashComments = /^(sql|lua|haskell|hs|ada|elm)$/i;
const plainText = /^(text|txt|plain|plaintext|output|log|markdown|md|)$/i;

const strings = String.raw`"""[^]*?(?:"""|$)|'''[^]*?(?:'''|$)|"(?:[^"\\\n]|\\.)*"?|'(?:[^'\\\n]|\\.)*'?`;
const rest = String.raw`\b0[xX][\da-fA-F_]+\b|\b\d[\d_]*(?:\.\d+)?(?:[eE][+-]?\d+)?\b|[A-Za-z_]\w*`;
const pattern = (comments) => new RegExp(`(${comments})|(${strings}|\`(?:[^\`\\\\]|\\\\.)*\`?)|(${rest})`, "g");
const ofSlashes = pattern(String.raw`\/\/[^\n]*|\/\*[^]*?(?:\*\/|$)`);
const ofHashes = pattern(String.raw`#[^\n]*`);
const ofDashes = pattern(String.raw`--[^\n]*`);

/** Nodes and strings. */
export function highlight(code, language = "") {
  if (plainText.test(language)) return [code];
  const matcher = hashComments.test(language) ? ofHashes : dashComments.test(language) ? ofDashes : ofSlashes;
  const nodes = [];
  let last = 0;
  for (const found of code.matchAll(matcher)) {
    const [text, comment, string] = found;
    const kind = comment ? "comment" : string ? "string" : /^\d/.test(text) ? "number" : words.has(text) ? "word" : null;
    if (!kind) continue;
    nodes.push(code.slice(last, found.index));
    const span = document.createElement("span");
    span.className = `code-${kind}`;
    span.textContent = text;
    nodes.push(span);
    last = found.index + text.length;
  }
  nodes.push(code.slice(last));
  return nodes;
}
