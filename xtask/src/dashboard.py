"""Looks at /dashboard as people do: in a real browser, at two widths, in light and dark, by keyboard and by ear.

dashboard.py PORT TOKEN PICTURES    drives Chromium over a pipe (its DevTools protocol) while requests run against
                                    127.0.0.1:PORT, says what is wrong, and leaves pictures in the folder PICTURES
"""

import base64
import fcntl
import http.client
import json
import os
import select
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

# Longer than anything takes on two busy cores; what is waited for is looked at again and again until then.
PATIENCE = 40
LOOK_EVERY = 0.1
WIDTHS = {"desktop": (1280, 900, False), "phone": (390, 844, True)}
READS_PER_SECOND = 150  # of each


class Browser:
    """Chromium without a window. Messages are JSON that ends with a zero byte, on descriptors 3 and 4."""

    def __init__(self, profile):
        child_in, self.write = os.pipe()
        self.read, child_out = os.pipe()
        # Out of the way of the numbers that they are to get.
        child_in, child_out = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 100) for end in (child_in, child_out))

        def place():
            os.dup2(child_in, 3)
            os.dup2(child_out, 4)

        # Without a sandbox of its own: tests run as root and in containers. It sees pages of ours only.
        words = ["chromium", "--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu"]
        words += ["--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking", "--disable-sync"]
        words += ["--disable-component-update", "--hide-scrollbars", f"--user-data-dir={profile}"]
        self.log = open(Path(profile) / "browser.log", "wb")
        self.process = subprocess.Popen(words, preexec_fn=place, pass_fds=(3, 4), stdout=self.log, stderr=self.log)
        os.close(child_in)
        os.close(child_out)
        self.buffer, self.next_id, self.events, self.session = b"", 0, [], None

    def message(self, deadline):
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.read], [], [], max(0, deadline - time.monotonic()))
            if not ready:
                return None
            more = os.read(self.read, 1 << 20)
            if not more:
                raise RuntimeError("the browser has ended")
            self.buffer += more
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)

    def call(self, method, **parameters):
        self.next_id += 1
        request = {"id": self.next_id, "method": method, "params": parameters}
        if self.session:
            request["sessionId"] = self.session
        data = json.dumps(request).encode() + b"\0"
        while data:
            data = data[os.write(self.write, data):]
        deadline = time.monotonic() + PATIENCE
        while message := self.message(deadline):
            if message.get("id") == self.next_id:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]
            self.events.append(message)
        raise RuntimeError(f"{method}: no answer")

    def open(self):
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility", "DOM"):
            self.call(domain + ".enable")

    def evaluate(self, expression):
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def press(self, key, code, text=""):
        key = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **key)
        self.call("Input.dispatchKeyEvent", type="keyUp", **key)

    def end(self):
        self.process.kill()
        self.process.wait()


class Traffic(threading.Thread):
    """Reads, a few writes and a few refusals, at a steady rate until told to stop."""

    def __init__(self, port, token):
        super().__init__(daemon=True)
        self.port, self.token, self.stop, self.failure = port, token, threading.Event(), None

    def run(self):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
            done, begun = 0, time.monotonic()
            while not self.stop.is_set() and time.monotonic() - begun < 4 * PATIENCE:
                method, target, body, fields = "GET", "/todos?limit=10", None, {}
                if done % 10 == 5:
                    method, target, body = "POST", "/todos", json.dumps({"title": f"seen on the dashboard, {done}"})
                    fields = {"Authorization": "Bearer " + self.token, "Content-Type": "application/json"}
                elif done % 50 == 7:
                    target = "/nothing"
                connection.request(method, target, body, fields)
                response = connection.getresponse()
                response.read()
                expected = 202 if method == "POST" else 404 if target == "/nothing" else 200
                if response.status != expected:
                    raise RuntimeError(f"{method} {target}: {response.status}")
                done += 1
                self.stop.wait(max(0, begun + done / READS_PER_SECOND - time.monotonic()))
        except (OSError, http.client.HTTPException, RuntimeError) as error:
            self.failure = error


class Check:
    def __init__(self, browser):
        self.browser, self.faults = browser, []

    def that(self, is_so, what):
        if not is_so:
            self.faults.append(what)

    def until(self, expression, what):
        """Waits until the expression is true in the page."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if self.browser.evaluate(expression):
                return True
            time.sleep(LOOK_EVERY)
        shown = self.browser.evaluate("document.body.innerText")
        self.faults.append(f"{what}: not in time; the page shows\n{shown}")
        return False


# What of a page a test needs to read: "1.23K" and "1,234" as numbers.
HELPERS = r"""
window.figure = id => {
  const match = /([\d.,]+)\s*([KMB]?)/.exec(document.getElementById(id).textContent);
  return match ? Number(match[1].replaceAll(',', '')) * { '': 1, K: 1e3, M: 1e6, B: 1e9 }[match[2]] : NaN;
};
window.cells = id => [...document.querySelectorAll('#' + id + ' tbody tr')].map(row => [...row.cells].map(cell => cell.textContent));
window.saidTimes = 0;
new MutationObserver(() => window.saidTimes++).observe(document.getElementById('said'), { childList: true, characterData: true, subtree: true });
window.violations = [];
addEventListener('securitypolicyviolation', event => window.violations.push(event.violatedDirective + ' ' + event.blockedURI));
"""

# Text that can be seen, with too little contrast against what it stands on (WCAG 2.2, 1.4.3).
CONTRAST = r"""
(() => {
  const numbers = color => color.match(/[\d.]+/g).map(Number);
  const luminance = color => {
    const [r, g, b] = color.slice(0, 3).map(part => { part /= 255; return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4; });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = element => {
    for (let at = element; at; at = at.parentElement) {
      const color = numbers(getComputedStyle(at).backgroundColor);
      if (color.length < 4 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  const faults = [];
  for (const element of document.querySelectorAll('body *')) {
    const text = [...element.childNodes].filter(node => node.nodeType === 3).map(node => node.textContent.trim()).join('');
    const box = element.getBoundingClientRect();
    if (!text || box.width < 2 || box.height < 2 || ['SCRIPT', 'STYLE', 'NOSCRIPT'].includes(element.tagName)) continue;
    const style = getComputedStyle(element);
    const ink = numbers(element instanceof SVGElement ? style.fill : style.color);
    const [light, dark] = [luminance(ink), luminance(behind(element))].sort((a, b) => b - a);
    const ratio = (light + 0.05) / (dark + 0.05);
    if (ratio < 4.5) faults.push(`${element.tagName} "${text}": ${ratio.toFixed(2)}`);
  }
  return faults;
})()
"""

FOCUSED = r"""
(() => {
  const at = document.activeElement, style = getComputedStyle(at), box = at.getBoundingClientRect();
  return { what: at.id || at.getAttribute('aria-label') || at.textContent.trim().slice(0, 60), tag: at.tagName,
    outlined: style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2, seen: box.width > 1 && box.right > 0 };
})()
"""


def shows_life(check, port, token):
    # A new connection goes to the shard with the fewest, so each has one of these at least.
    traffic = [Traffic(port, token) for _ in range(4)]
    for thread in traffic:
        thread.start()
    check.until("document.getElementById('state').textContent === 'live'", "the state is live")
    check.until(f"figure('requests') > {READS_PER_SECOND // 2}", "requests per second are shown")
    check.until("cells('shards').filter(row => Number(row[1].replaceAll(',', '')) > 10).length === 2", "both shards' requests are shown")
    check.until("/[µm]?s$/.test(document.getElementById('latency').textContent)", "the latency of writes is shown")
    check.until("/[µm]?s$/.test(document.getElementById('answering').textContent)", "the latency of answers is shown")
    check.until("cells('latencies').length >= 2", "the table of latencies has rows")
    check.until("cells('refused').some(row => row[0] === 'not-found')", "the refused are shown by problem")
    check.until("document.querySelectorAll('#requests-figure .chart path.s[d*=L]').length === 2", "the chart has two lines")
    for tile in ("age", "lag", "position", "items", "queue", "errors", "connections", "cpu", "memory"):
        check.until(f"!Number.isNaN(figure('{tile}'))", f"the tile {tile} has a figure")
    check.that(check.browser.evaluate("figure('errors') === 0"), "nothing fails, so no errors are shown")
    # They rise with what is done.
    check.browser.evaluate("window.first = [figure('position'), figure('requests-note')]; 0")
    check.until("figure('position') > first[0] && figure('requests-note') > first[1]", "position and requests rise")
    return traffic


def pictures(check, folder):
    browser = check.browser
    browser.evaluate("document.activeElement.blur(); 0")
    check.until("document.querySelectorAll('#answering-figure .chart path.s[d*=L]').length === 2", "latency has its lines")
    for scheme in ("light", "dark"):
        for name, (width, height, mobile) in WIDTHS.items():
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            browser.call("Emulation.setEmulatedMedia", features=features)
            browser.call(
                "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile
            )
            drawn = f"document.querySelector('.chart').viewBox.baseVal.width === document.querySelector('.chart').clientWidth"
            check.until(drawn, f"{name}: the charts are drawn for this width")
            wide = browser.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            check.that(wide <= 0, f"{name}: the page is {wide} pixels wider than the window")
            for fault in browser.evaluate(CONTRAST):
                check.faults.append(f"{name}, {scheme}: too little contrast: {fault}")
            size = browser.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
            clip = {"x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1}
            data = browser.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)["data"]
            (folder / f"{name}-{scheme}.png").write_bytes(base64.b64decode(data))


def by_keyboard(check):
    browser = check.browser
    browser.call("Emulation.setDeviceMetricsOverride", width=1280, height=900, deviceScaleFactor=1, mobile=False)
    browser.call("Page.bringToFront")
    reached = []
    for _ in range(40):
        browser.press("Tab", 9)
        focused = browser.evaluate(FOCUSED)
        if focused["tag"] == "BODY" or (reached and focused["what"] == reached[0]["what"]):
            break
        reached.append(focused)
        check.that(focused["outlined"] and focused["seen"], f"the focus is not to be seen on {focused}")
    names = [focused["what"] for focused in reached]
    for expected in ("Skip to the figures", "pause", "Requests per second, by shard, as a table", "Shards"):
        check.that(expected in names, f"the Tab key does not reach {expected}: {names}")
    # The first table opens and is filled, and closes again.
    browser.evaluate("document.querySelector('#requests-figure summary').focus(); 0")
    browser.press("Enter", 13, "\r")
    check.until("cells('requests-figure-table').length >= 1", "Enter opens the table of a chart")
    browser.press("Enter", 13, "\r")
    browser.evaluate("document.getElementById('pause').focus(); 0")
    for state in ("paused", "live"):
        browser.press("Enter", 13, "\r")
        check.until(f"document.getElementById('state').textContent === '{state}'", f"Enter on Pause: {state}")


def by_ear(check):
    browser = check.browser
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    counts = {}
    for node in nodes:
        if node.get("ignored"):
            continue
        role, name = node.get("role", {}).get("value"), node.get("name", {}).get("value", "").strip()
        focusable = any(one["name"] == "focusable" and one["value"].get("value") for one in node.get("properties", []))
        counts[role] = counts.get(role, 0) + 1
        needs_name = focusable or role in ("image", "img", "figure", "Figure", "table", "region", "button", "link", "heading")
        if needs_name and role not in ("RootWebArea", "main") and not name:
            check.faults.append(f"nobody hears what this is: {role}, {json.dumps(node.get('properties'))[:200]}")
    for role, least in (("heading", 5), ("button", 1), ("table", 3), ("main", 1), ("status", 1)):
        check.that(counts.get(role, 0) >= least, f"{counts.get(role, 0)} of role {role}: {counts}")
    check.that(browser.evaluate("document.querySelectorAll('[aria-live]').length") == 1, "one live region, no more")
    # Told since the helpers came: live perhaps, paused, live. Not once a second.
    said = browser.evaluate("saidTimes")
    check.that(said <= 6, f"a screen reader was told something {said} times")
    check.that(browser.evaluate("document.documentElement.lang") == "en", "the language is not said")


def is_contained(check, port):
    browser = check.browser
    check.that(browser.evaluate("violations") == [], f"violations of the policy: {browser.evaluate('violations')}")
    loaded = {"Network.requestWillBeSent": 0}
    for event in browser.events:
        method, parameters = event.get("method"), event.get("params", {})
        if method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning", "assert"):
            check.faults.append(f"the console says {parameters['args']}")
        elif method == "Runtime.exceptionThrown":
            check.faults.append(f"an exception: {parameters['exceptionDetails']}")
        elif method == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
            check.faults.append(f"the browser logs {parameters['entry']}")
        elif method == "Network.requestWillBeSent":
            url = parameters["request"]["url"]
            loaded[method] += 1
            allowed = (f"http://127.0.0.1:{port}/dashboard", f"http://127.0.0.1:{port}/dashboard/events", "data:,")
            check.that(url in allowed, f"it loads {url}")
    check.that(loaded["Network.requestWillBeSent"] >= 2, "page and events were seen to be loaded")
    # That the policy is in force: what somebody might slip in does not run.
    browser.evaluate("document.body.append(Object.assign(document.createElement('script'), { textContent: 'window.slipped = 1' })); 0")
    check.until("violations.length === 1", "a foreign script violates the policy")
    check.that(browser.evaluate("window.slipped === undefined"), "a foreign script has run")


def main(port, token, folder):
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:  # the browser's last process may still write
        browser = Browser(profile)
        try:
            browser.open()
            check = Check(browser)
            browser.call("Page.navigate", url=f"http://127.0.0.1:{port}/dashboard")
            check.until("document.readyState === 'complete' && !!document.getElementById('said')", "the page is loaded")
            browser.evaluate(HELPERS + "0")
            traffic = shows_life(check, port, token)
            by_keyboard(check)
            by_ear(check)
            pictures(check, folder)
            for thread in traffic:
                thread.stop.set()
                thread.join()
                check.that(thread.failure is None, f"a request went wrong: {thread.failure}")
            check.until("figure('requests') < 20", "without requests the figure falls")
            is_contained(check, port)
        finally:
            browser.end()
    print(*check.faults, sep="\n", end="\n" if check.faults else "")
    print(f"{len(list(folder.glob('*.png')))} pictures in {folder}, {len(check.faults)} faults")
    sys.exit(1 if check.faults else 0)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
