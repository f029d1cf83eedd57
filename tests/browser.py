"""A headless Chromium driven over its DevTools protocol, through two pipes: no network, no package."""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE = 60
READY = "document.documentElement?.dataset.ready"
LOADED = "location.protocol === 'file:' && document.readyState === 'complete'"
CONTRASTS = """(() => {
  const channels = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [[r, .2126], [g, .7152], [b, .0722]].reduce((sum, [c, part]) =>
    sum + part * ((c /= 255) <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4), 0);
  const paper = one => { for (; one; one = one.parentElement) {
    const found = channels(getComputedStyle(one).backgroundColor);
    if (found.length < 4 || found[3] === 1) return found; }
    return [255, 255, 255]; };
  const bad = [];
  for (const one of document.querySelectorAll("body *")) {
    if (![...one.childNodes].some(n => n.nodeType === 3 && n.data.trim()) || !one.getClientRects().length) continue;
    const [a, b] = [channels(getComputedStyle(one).color), paper(one)].map(light);
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) bad.push(`${one.className || one.tagName} ${one.textContent.slice(0, 20)} ${ratio.toFixed(2)}`);
  }
  return bad;
})()"""
"""What cannot be read: text whose contrast with what lies under it is below 4.5 (WCAG 2, AA)."""


class Browser:
    """One page. `said` are its console messages and errors, `asked` the addresses that it requested."""

    def __init__(self, profile: Path, width: int = 1366, height: int = 768) -> None:
        found = next((path for name in NAMES if (path := shutil.which(name))), None)
        if found is None:
            pytest.skip("no Chromium was found: the page cannot be tried")
        ours, theirs = os.pipe(), os.pipe()
        # Away from 3 and 4, which are the numbers that Chromium listens to and speaks on.
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 20) for fd in (ours[0], theirs[1])]

        def numbered() -> None:
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        command = [found, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run"]
        command += [f"--user-data-dir={profile}", f"--window-size={width},{height}", "about:blank"]
        self._process = subprocess.Popen(
            command,
            preexec_fn=numbered,
            pass_fds=(3, 4),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for fd in (*high, ours[0], theirs[1]):
            os.close(fd)
        self._out, self._in = ours[1], theirs[0]
        self._n, self._session, self._buffer = 0, None, b""
        self._events: list[dict[str, Any]] = []
        target = self.command("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.command("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.command(f"{domain}.enable")

    def close(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._out)
        os.close(self._in)

    def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command's result. Fails where Chromium refuses it or does not answer."""
        self._n += 1
        message = {"id": self._n, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            for reply in self._read(deadline):
                if reply.get("id") == self._n:
                    assert "error" not in reply, f"{method}: {reply['error']}"
                    return reply["result"]
        raise AssertionError(f"Chromium did not answer {method} in {PATIENCE} s")

    def _read(self, deadline: float) -> list[dict[str, Any]]:
        """Whatever messages have come; those that answer nothing are kept as events."""
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0, deadline - time.monotonic()))
            piece = os.read(self._in, 1 << 20) if ready else b""
            assert piece, "Chromium has gone away"
            self._buffer += piece
        *whole, self._buffer = self._buffer.split(b"\0")
        messages = [json.loads(one) for one in whole]
        self._events += [one for one in messages if "method" in one]
        return messages

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression, awaited. Fails where it throws."""
        done = self.command("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def open(self, page: Path, fragment: str = "", ready: str = READY) -> None:
        """Opens a file and waits until it says that it is ready."""
        self.command("Page.navigate", url="about:blank")
        self._events.clear()
        self.command("Page.navigate", url=page.as_uri() + fragment)
        self.wait(ready)

    def wait(self, condition: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not self.run(condition):
            assert time.monotonic() < deadline, f"{condition} did not come true; {self.said}"
            time.sleep(0.02)

    def seconds(self, script: str) -> float:
        """Processor time of the page's own thread for a script and what is laid out and painted after it: other
        programs do not count."""
        self.command("Performance.enable", timeDomain="threadTicks")
        before = self._task_seconds()
        self.run(f"{script}; new Promise(done => requestAnimationFrame(() => setTimeout(done, 0)))")
        return self._task_seconds() - before

    def _task_seconds(self) -> float:
        metrics = self.command("Performance.getMetrics")["metrics"]
        return float(next(one["value"] for one in metrics if one["name"] == "TaskDuration"))

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            text = {"text": key} if len(key) == 1 and kind == "keyDown" else {}
            number = {"windowsVirtualKeyCode": 9} if key == "Tab" else {}  # without it the focus stays
            self.command("Input.dispatchKeyEvent", type=kind, key=key, **text, **number)

    def click(self, selector: str) -> None:
        """A real click into the middle of an element's first line box."""
        script = f"document.querySelector({json.dumps(selector)})"
        self.run(f"{script}.scrollIntoView({{block: 'nearest'}})")
        x, y = self.run(f"(box => [box.x + box.width / 2, box.y + box.height / 2])({script}.getClientRects()[0])")
        for kind in ("mousePressed", "mouseReleased"):
            self.command("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    @property
    def said(self) -> list[str]:
        """Console messages, errors and refusals of the page's policy."""
        self.run("0")
        kinds = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [json.dumps(one["params"]) for one in self._events if one["method"] in kinds]

    @property
    def asked(self) -> list[str]:
        self.run("0")
        return [one["params"]["request"]["url"] for one in self._events if one["method"] == "Network.requestWillBeSent"]
