/* The strip of small pictures of all open files. */

export class Strip {
  #list;
  #documents;
  #items = new Map(); // of documents

  /**
   * @param {HTMLElement} host  with a list in it
   * @param {import("./documents.js").Documents} documents
   */
  constructor(host, documents) {
    this.#list = host.querySelector("ul");
    this.#documents = documents;
    documents.addEventListener("select", () => this.#mark());
  }

  /** Shows what is new about a file. */
  update(one) {
    if (!this.#items.has(one)) this.#add(one);
    const button = this.#items.get(one);
    const failed = one.state === "failed";
    button.classList.toggle("failed", failed);
    button.setAttribute("aria-label", failed ? `${one.name}, cannot be shown` : one.name);
    let [face] = button.children;
    if (face !== one.thumbnail && (one.thumbnail || !face?.matches(".letters"))) {
      face = one.thumbnail ?? Object.assign(document.createElement("span"), { className: "letters" });
      button.replaceChildren(face);
    }
    if (!one.thumbnail) face.textContent = failed ? `${one.name} ✕` : one.name;
  }

  #add(one) {
    const button = Object.assign(document.createElement("button"), { type: "button", title: one.name });
    button.addEventListener("click", () => this.#documents.select(one));
    const item = document.createElement("li");
    item.append(button);
    this.#list.append(item);
    this.#items.set(one, button);
    this.#mark();
  }

  #mark() {
    for (const [one, button] of this.#items) button.setAttribute("aria-current", one === this.#documents.selected);
    const current = this.#items.get(this.#documents.selected);
    current?.scrollIntoView({ block: "nearest", inline: "nearest" });
    // Keys may have chosen another file while one of the strip had the focus.
    if (this.#list.contains(document.activeElement)) current?.focus();
  }
}
