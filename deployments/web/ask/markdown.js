/**
 * @file Markdown of several authors, as elements.
 *
 * A mark stands in the text where the next author begins. It passes through the Markdown parser as a letter does, so a list or a table
 * may begin with one author and end with another.
 */

import { colourClass, nameLabel } from "../lib/authors.js";
import { h } from "../lib/dom.js";
import { lexer } from "../vendor/marked.js";

// Code points that are never characters. A mark says the number of its span, modulo how many there are.
const FIRST_MARK = 0xfdd0;
const NUM_MARKS = 32;
const MARKS = /[\ufdd0-\ufdef]/g;

// What must stand first in a line to begin a block: a mark goes behind it.
const BLOCK_START = /^(?:[ \t]*(?:#{1,6} |[-*+] |\d{1,9}[.)] |> ?|\||(?:```|~~~)[^\n]*\n|(?:[-*_=] ?){3,}\n))+/;
const SAFE_LINK = /^(?:https?|mailto):/i;
const ENTITIES = { amp: "&", lt: "<", gt: ">", quot: '"', "#39": "'", nbsp: "\u00a0" };

/**
 * @typedef {{model: string, text: string, detail?: string}} Span `detail` stands beside the author's name.
 * @param {Span[]} spans
 * @returns {Node[]} Elements without any markup of the authors': what they write as HTML is shown as text.
 */
export function markdown(spans) {
  const writer = new Writer(spans);
  return lexer(markedText(spans)).flatMap((token) => writer.block(token));
}

function markedText(spans) {
  let text = "";
  spans.forEach((span, index) => {
    const own = span.text.replace(MARKS, "\ufffd");
    const space = /^\s*/.exec(own)[0];
    const startsLine = /(^|\n)[ \t]*$/.test(text + space);
    const start = startsLine ? (BLOCK_START.exec(own.slice(space.length))?.[0] ?? "") : "";
    const at = space.length + start.length;
    text += own.slice(0, at) + String.fromCharCode(FIRST_MARK + (index % NUM_MARKS)) + own.slice(at);
  });
  return text;
}

class Writer {
  #spans;
  #current = -1;

  constructor(spans) {
    this.#spans = spans;
  }

  /** The elements of one block. */
  block(token) {
    switch (token.type) {
      case "space":
      case "def":
        return [];
      case "heading":
        // One level down from the page's own.
        return [h(`h${Math.min(6, token.depth + 2)}`, {}, ...this.#inline(token.tokens))];
      case "paragraph":
        return [h("p", {}, ...this.#inline(token.tokens))];
      case "code":
        return [h("pre", { tabindex: 0 }, h("code", {}, ...this.#text(token.text)))];
      case "blockquote":
        return [h("blockquote", {}, ...this.#blocks(token.tokens))];
      case "list":
        return [this.#list(token)];
      case "table":
        return [this.#table(token)];
      case "hr":
        return [h("hr")];
      case "text":
        return token.tokens ? this.#inline(token.tokens) : this.#text(token.text);
      default: // HTML
        return [h("p", {}, ...this.#text(token.raw))];
    }
  }

  #blocks(tokens) {
    return tokens.flatMap((token) => this.block(token));
  }

  #list(token) {
    const items = token.items.map((item) => {
      const box = item.task ? (item.checked ? "☑ " : "☐ ") : null;
      return h("li", {}, box, ...this.#blocks(item.tokens.filter(({ type }) => type !== "checkbox")));
    });
    return token.ordered ? h("ol", { start: token.start }, ...items) : h("ul", {}, ...items);
  }

  #table(token) {
    const row = (cells, tag) => h("tr", {}, ...cells.map((cell) => h(tag, {}, ...this.#inline(cell.tokens))));
    const head = h("thead", {}, row(token.header, "th"));
    const body = h("tbody", {}, ...token.rows.map((cells) => row(cells, "td")));
    const label = "Table of the answer";
    return h("div", { class: "scroll", role: "region", tabindex: 0, "aria-label": label }, h("table", {}, head, body));
  }

  #inline(tokens) {
    return tokens.flatMap((token) => this.#inlinePart(token));
  }

  #inlinePart(token) {
    switch (token.type) {
      case "strong":
      case "em":
      case "del":
        return [h(token.type, {}, ...this.#inline(token.tokens))];
      case "codespan":
        return [h("code", {}, ...this.#text(token.text))];
      case "br":
        return [h("br")];
      case "link":
        return [this.#link(token.href, this.#inline(token.tokens))];
      case "image": // never loaded: it would tell another host that it was seen
        return [this.#link(token.href, this.#text(token.text || token.href))];
      case "text":
        return token.tokens ? this.#inline(token.tokens) : this.#text(decoded(token.text));
      case "escape":
        return this.#text(token.text);
      default: // HTML
        return this.#text(token.raw);
    }
  }

  #link(href, content) {
    const address = href.replace(MARKS, "");
    if (!SAFE_LINK.test(address)) return h("span", {}, ...content);
    return h("a", { href: address, target: "_blank", rel: "noopener noreferrer nofollow" }, ...content);
  }

  /** The text in the colour of its author, and a label where another author begins. */
  #text(text) {
    const nodes = [];
    let end = 0;
    for (const mark of text.matchAll(MARKS)) {
      nodes.push(this.#coloured(text.slice(end, mark.index)), this.#begin(mark[0].charCodeAt(0) - FIRST_MARK));
      end = mark.index + 1;
    }
    nodes.push(this.#coloured(text.slice(end)));
    return nodes.filter((node) => node !== null);
  }

  #begin(remainder) {
    this.#current += (remainder - this.#current + 2 * NUM_MARKS) % NUM_MARKS;
    const { model, detail } = this.#spans[this.#current] ?? this.#spans.at(-1);
    return nameLabel(model, detail);
  }

  #coloured(text) {
    const span = this.#spans[this.#current];
    return text && span ? h("span", { class: `by ${colourClass(span.model)}` }, text) : text || null;
  }
}

function decoded(text) {
  return text.replace(/&(amp|lt|gt|quot|#39|nbsp);/g, (_, name) => ENTITIES[name]);
}
