"use strict";
// The search of `clipa cite` (clipa.published.search), over the data that clipa.published.search_data exports.
// Functions are called as there, and give the same; tests/test_numbers_search.py asks both the same queries.
function searchOver(data) { // eslint-disable-line no-unused-vars
  const pattern = Object.fromEntries(Object.entries(data.patterns).map(([name, text]) => [name, new RegExp(text)]));
  const everySpace = new RegExp(data.patterns.space), aroundAnId = new RegExp(data.patterns.aroundAnId, "g");
  const rewrites = data.rewrites.map(([text, replacement]) => [new RegExp(text, "g"), replacement]);
  const order = (a, b) => (a < b ? -1 : a > b ? 1 : 0);

  const sidesOf = data.vocabulary.map(([, bits]) => data.sides.filter((_, position) => bits >> position & 1));
  const entries = data.records.map(([id, species, valued, terms, departures, run, kase, sameAs], position) => ({
    id, species, valued: valued === 1, position, run, kase, sameAs,
    identity: id.toLowerCase(),
    terms: new Map(terms.map((number) => [data.vocabulary[number][0], sidesOf[number]])),
    departures: data.departures[departures],
  }));

  // ------------------------------------------------------------------------------------- words and records

  const words = (text) => text.split(everySpace).filter(Boolean);

  function termsOf(query) {
    const terms = [];
    let plain = [];
    const rewrite = () => {
      let text = plain.join(" ");
      for (const [from, to] of rewrites) text = text.replace(from, to);
      terms.push(...words(text).filter((word) => !data.silent.includes(` ${word} `)));
      plain = [];
    };
    for (const word of words(query.toLowerCase())) {
      if (pattern.likeAnId.test(word)) { rewrite(); terms.push(word.replace(aroundAnId, "")); } else plain.push(word);
    }
    rewrite();
    return [...new Set(terms)];
  }

  function has(entry, term) {
    if (entry.terms.has(term)) return true;
    if (pattern.likeAnId.test(term)) return entry.identity.includes(term);
    if (!pattern.beginning.test(term)) return false;
    for (const known of entry.terms.keys()) if (known.startsWith(term)) return true;
    return false;
  }

  const sides = (entry, terms) => new Set(terms.flatMap((term) => entry.terms.get(term) ?? []));

  function distance(entry, named) {
    let steps = 0;
    for (const [far, names] of entry.departures) if (!names.length || !names.every((name) => named.has(name))) steps += far;
    return steps;
  }

  function speciesAskedFor(terms) {
    if (terms.some((term) => term === data.measured || data.scales.includes(term.split(".")[0]))) {
      return new Set([terms.some((term) => pattern.seed.test(term)) ? "seed" : "mean"]);
    }
    let kinds = data.changes.filter((kind) => terms.includes(kind));
    const all = terms.some((term) => term === data.derived || term.startsWith(data.derived + "."));
    if (!kinds.length && all) kinds = data.changes;
    return new Set(["published", ...kinds]);
  }

  // ------------------------------------------------------------------------------------------------ search

  const loneNumber = (terms) => terms.length === 1 && pattern.plainNumber.test(terms[0]);

  /** {terms, hits, further}: entries among `those`, best first. */
  function search(query, those) {
    const terms = termsOf(query);
    if (terms.length === 1) {
      const exact = those.filter((entry) => entry.identity === terms[0]);
      if (exact.length) return { terms, hits: exact, further: [] };
    }
    const lone = loneNumber(terms);
    let scored = [], byValue = false;
    for (const entry of those) {
      if (lone && !(terms[0].length > 1 && entry.terms.get(terms[0])?.includes("value"))) continue;
      if (!terms.length || !terms.every((term) => has(entry, term))) continue;
      byValue ||= lone || terms.some((term) => String(entry.terms.get(term)) === "value");
      scored.push([distance(entry, new Set([...sides(entry, terms), ...terms])), entry]);
    }
    if (scored.some(([, entry]) => entry.valued)) scored = scored.filter(([, entry]) => entry.valued);
    scored.sort((a, b) => a[0] - b[0] || a[1].position - b[1].position);
    const groups = [], taken = new Set();
    for (const [far, entry] of scored) {
      if (![entry.id, ...entry.sameAs].some((id) => taken.has(id))) groups.push([far, entry]);
      taken.add(entry.id);
    }
    const found = groups.map(([, entry]) => entry);
    if (!byValue && groups.filter(([far]) => far === groups[0][0]).length === 1) {
      return { terms, hits: found.slice(0, 1), further: found.slice(1) };
    }
    return { terms, hits: found, further: [] };
  }

  // -------------------------------------------------------------------------------------- did you mean …?

  /** {near, ids, meant} for terms that find nothing among `those`. */
  function nearest(terms, those) {
    const valued = those.filter((entry) => entry.valued);
    const words = new Set([...data.changes, data.derived, data.measured]);
    const slugs = new Map();
    for (const entry of valued) {
      for (const word of entry.terms.keys()) words.add(word);
      for (const slug of [entry.run, entry.kase, entry.id]) if (slug) slugs.set(slug.toLowerCase(), slug);
    }
    const known = new Map([...words].map((word) => [word, word]));
    const near = {};
    for (const term of terms) {
      if (!valued.some((entry) => has(entry, term))) near[term] = nearWords(term, pattern.likeAnId.test(term) ? slugs : known);
    }
    const meant = terms.map((term) => near[term]?.[0]?.toLowerCase() ?? term);
    const ranked = valued.map((entry, position) => {
      const held = meant.filter((term) => has(entry, term));
      return { missing: meant.length - held.length, far: distance(entry, sides(entry, held)), position, id: entry.id };
    });
    ranked.sort((a, b) => a.missing - b.missing || a.far - b.far || a.position - b.position);
    const ids = ranked.slice(0, data.mentioned).filter((one) => one.missing < meant.length).map((one) => one.id);
    const all = Object.values(near);
    return { near, ids, meant: all.length && all.every((some) => some.length) ? meant.join(" ") : "" };
  }

  function nearWords(term, known) {
    const parts = pattern.withANumber.exec(term);
    if (parts && (parts[1] || parts[3])) {
      const numbers = [];
      for (const word of known.keys()) {
        const kin = pattern.withANumber.exec(word);
        if (kin && kin[1] === parts[1] && kin[3] === parts[3]) numbers.push([Math.abs(kin[2] - parts[2]), word]);
      }
      numbers.sort((a, b) => a[0] - b[0] || order(a[1], b[1]));
      if (numbers.length) return numbers.slice(0, data.near).map(([, word]) => word);
    }
    const alike = [...known.keys()].map((word) => [ratio(word, term), word]).filter(([score]) => score >= data.cutoff);
    alike.sort((a, b) => b[0] - a[0] || order(b[1], a[1]));
    return alike.slice(0, data.near).map(([, word]) => known.get(word));
  }

  /** Python's difflib.SequenceMatcher(None, one, other).ratio(), for fewer than 200 characters. */
  function ratio(one, other) {
    const a = [...one], b = [...other];
    // No more characters than the shorter text has can match.
    if (2 * Math.min(a.length, b.length) / (a.length + b.length) < data.cutoff) return 0;
    return 2 * matching(a, b, 0, a.length, 0, b.length) / (a.length + b.length);
  }

  /** Characters in the longest common block, the first one in both texts, and in those left and right of it. */
  function matching(a, b, fromA, toA, fromB, toB) {
    let bestA = fromA, bestB = fromB, size = 0;
    let lengths = new Map();
    for (let i = fromA; i < toA; i++) {
      const next = new Map();
      for (let j = fromB; j < toB; j++) {
        if (a[i] !== b[j]) continue;
        const length = (lengths.get(j - 1) ?? 0) + 1;
        next.set(j, length);
        if (length > size) [bestA, bestB, size] = [i - length + 1, j - length + 1, length];
      }
      lengths = next;
    }
    if (!size) return 0;
    return size + matching(a, b, fromA, bestA, fromB, bestB) + matching(a, b, bestA + size, toA, bestB + size, toB);
  }

  return { entries, termsOf, speciesAskedFor, loneNumber, search, nearest };
}
