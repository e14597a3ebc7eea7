// What a browser shows of the status page, by playwright-core in Debian's Chromium. tests/status.rs starts it:
//
//     node page.js CHECK URL [MORE…]
//
// and takes an exit code other than 0, with what was said, for a failure.
"use strict";

const assert = require("node:assert/strict");
const { createInterface } = require("node:readline");
const { chromium } = require("playwright-core");

/// How long the page may take to say something: a bridge may have to be connected to on a busy machine.
const LIMIT_MS = 40_000;

const [name, url, ...more] = process.argv.slice(2);

/// A page of a context with these options, loaded; `before` has it while it is empty.
async function open(browser, options = {}, before = () => {}) {
  const context = await browser.newContext(options);
  context.setDefaultTimeout(LIMIT_MS);
  const page = await context.newPage();
  before(page);
  await page.goto(url);
  return page;
}

/// Waits until all these words are to be seen.
async function says(page, ...words) {
  for (const word of words) await page.getByText(word).first().waitFor();
}

/// The state, and nothing from elsewhere. MORE: what must not be in the page.
async function shows(browser) {
  const [complaints, requested] = [[], []];
  const page = await open(browser, {}, (page) => {
    page.on("pageerror", (error) => complaints.push(String(error)));
    // What the page's policy forbids is said here as well.
    page.on("console", (message) => complaints.push(message.text()));
    page.on("requestfailed", (request) => complaints.push(request.url()));
    page.on("request", (request) => requested.push(request.url()));
  });
  await says(page, "Connected", "Bridge 1", "round trip ", "profile web");
  assert.equal(await page.title(), "Connected – QNet");
  assert.deepEqual(complaints, []);
  assert(requested.length >= 4 && requested.every((one) => one.startsWith(url)), requested.join(" "));
  const dom = await page.content();
  for (const hidden of more) assert(!dom.includes(hidden), `${hidden} in ${dom}`);
}

/// Of all texts that are shown: the least contrast with the ground behind one (WCAG 2.2, "contrast ratio"), and whose it is; and by
/// how many pixels the page is wider than its window.
function legibility() {
  const parts = (color) => color.match(/[\d.]+/g).map(Number);
  const light = (color) => {
    const [r, g, b] = parts(color).map((part) => part / 255).map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    const color = getComputedStyle(element).backgroundColor;
    return parts(color)[3] === 0 && element.parentElement ? ground(element.parentElement) : color;
  };
  const shown = [...document.body.querySelectorAll("*")].filter((element) => element.checkVisibility() &&
    [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim()));
  const contrasts = shown.map((element) => {
    const [low, high] = [light(getComputedStyle(element).color), light(ground(element))].sort((a, b) => a - b);
    return { of: element.outerHTML.slice(0, 80), contrast: (high + 0.05) / (low + 0.05) };
  });
  const worst = contrasts.reduce((one, other) => one.contrast < other.contrast ? one : other);
  return { texts: contrasts.length, worst, ground: light(ground(document.body)), wider: document.documentElement.scrollWidth - innerWidth };
}

/// WCAG 2.2, 1.4.3, level AA.
const LEAST_CONTRAST = 4.5;

/// Both schemes, on screens from a phone's to a desktop's. MORE: the folder for pictures of them, and what the page says by then.
async function legible(browser) {
  const [folder, ...words] = more;
  for (const [colorScheme, right] of [["light", (ground) => ground > 0.8], ["dark", (ground) => ground < 0.05]]) {
    for (const width of [320, 390, 768, 1280]) {
      const screen = { viewport: { width, height: 740 }, deviceScaleFactor: 2, isMobile: width < 600 };
      const page = await open(browser, { colorScheme, ...screen });
      await says(page, ...words);
      const seen = await page.evaluate(legibility);
      const at = `${words[0]}, ${colorScheme}, ${width}: ${JSON.stringify(seen)}`;
      assert(seen.texts > 15 && seen.wider === 0, at);
      assert(seen.worst.contrast >= LEAST_CONTRAST, at);
      assert(right(seen.ground), at);
      await page.screenshot({ path: `${folder}/${words[0].toLowerCase()}-${colorScheme}-${width}.png`, fullPage: true });
      await page.context().close();
    }
  }
}

/// The one button, as a user finds it.
async function button(browser) {
  const page = await open(browser);
  await says(page, "Bridge 1");
  const answered = page.waitForResponse((response) => response.url() === `${url}reconnect`);
  await page.getByRole("button", { name: "Connect anew" }).click();
  assert.equal((await answered).status(), 204);
}

/// One page over time. MORE: what it says first, next and so on, several words joined by `|`. Each time it is told on standard
/// output that it does, and a line on standard input lets it go on.
async function follows(browser) {
  const page = await open(browser);
  const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  for (const words of more) {
    await says(page, ...words.split("|"));
    process.stdout.write(`${words}\n`);
    await lines.next();
  }
}

const CHECKS = { shows, legible, button, follows };

(async () => {
  const browser = await chromium.launch({ executablePath: "/usr/bin/chromium" });
  try {
    await CHECKS[name](browser);
  } finally {
    await browser.close();
  }
  process.exit(0);
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
