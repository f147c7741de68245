"""Pictures of the console: logs in, opens screens in headless Chromium, saves them as PNG.

`make screenshots` makes the pictures of `docs/images` again, by this module. The server is the one
that `make up` started (address, login and password come from `.local/run.env`), or the one that
the variables `ODOOOPS_URL`, `ODOOOPS_DB`, `ODOOOPS_LOGIN` and `ODOOOPS_PASSWORD` name.
Needs chromium in PATH and the Python package websocket-client.
"""

import argparse
import base64
import contextlib
import itertools
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from http.cookiejar import CookieJar
from pathlib import Path

from . import paths

IMAGES = paths.ROOT / "docs" / "images"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SECONDS = 30
# Picture -> path of the page, selector that is there when the page is ready.
PICTURES = {
    "runs": ("/odoo/ops-runs", ".o_ops_run_card"),
    "failed-run": ("/odoo/ops-runs/{failed_run}", ".o_ops_log_target"),
}


class Problem(Exception):
    """Why a picture cannot be made, as a sentence."""


class Odoo:
    """A logged-in session of the server: questions by JSON-RPC, and its cookie for the browser."""

    def __init__(self, url, database, login, password):
        self.url = url.rstrip("/")
        self._cookies = CookieJar()
        self._opener = urllib.request.build_opener(
            urllib.request.HTTPCookieProcessor(self._cookies)
        )
        arguments = {"db": database, "login": login, "password": password}
        self._post("/web/session/authenticate", arguments)

    @property
    def session_id(self):
        """Value of the session's cookie."""
        return next(cookie.value for cookie in self._cookies if cookie.name == "session_id")

    def call(self, model, method, *args, **kwargs):
        """Call a public method of a model."""
        params = {"model": model, "method": method, "args": args, "kwargs": kwargs}
        return self._post(f"/web/dataset/call_kw/{model}/{method}", params)

    def _post(self, path, params):
        body = json.dumps({"jsonrpc": "2.0", "method": "call", "params": params}).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, body, headers)
        with self._opener.open(request, timeout=SECONDS) as response:
            answer = json.load(response)
        if "error" in answer:
            raise Problem(f"{path}: {answer['error']['data']['message']}")
        # Odoo leaves the result of a method without one out.
        return answer.get("result")


class Browser:
    """Headless Chromium, driven through its debugging port."""

    def __init__(self, program, width, height):
        self._size = (width, height)
        self._folder = tempfile.mkdtemp(prefix="odooops-screenshots-")
        self._ids = itertools.count(1)
        self._process = subprocess.Popen(
            [
                *(program, "--headless", "--no-sandbox", "--disable-dev-shm-usage"),
                *("--hide-scrollbars", f"--window-size={width},{height}"),
                *("--remote-debugging-port=0", "--remote-allow-origins=*"),
                *(f"--user-data-dir={self._folder}", "about:blank"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._socket = None

    def connect(self):
        """Wait for the browser and open a connection to its page."""
        import websocket

        port_file = Path(self._folder) / "DevToolsActivePort"
        wait_until(port_file.exists, "Chromium has not started.")
        wait_until(lambda: self._address(port_file), "Chromium has opened no page.")
        self._socket = websocket.create_connection(self._address(port_file), timeout=SECONDS)
        # The window's own size counts its frame too.
        width, height = self._size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.command("Emulation.setDeviceMetricsOverride", **metrics)

    @staticmethod
    def _address(port_file):
        """Where our page can be debugged; Chromium lists pages of its own beside it."""
        port = port_file.read_text().partition("\n")[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=SECONDS) as reply:
            targets = json.load(reply)
        pages = [t for t in targets if t["type"] == "page" and t["url"] == "about:blank"]
        return pages[0]["webSocketDebuggerUrl"] if pages else None

    def command(self, method, **params):
        """Send one command of the DevTools protocol and return its result."""
        number = next(self._ids)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            answer = json.loads(self._socket.recv())
            if answer.get("id") != number:
                continue
            if "error" in answer:
                raise Problem(f"{method}: {answer['error']['message']}")
            return answer["result"]

    def evaluate(self, script):
        """Value of a JavaScript expression in the page."""
        result = self.command("Runtime.evaluate", expression=script, returnByValue=True)
        return result["result"].get("value")

    def open(self, url, selector):
        """Open a page and wait until the selector is there and nothing moves any more."""
        self.command("Page.navigate", url=url)
        present = f"Boolean(document.querySelector({json.dumps(selector)}))"
        wait_until(lambda: self.evaluate(present), f"{url} does not show {selector}.")
        time.sleep(1)

    def picture(self, path):
        """Save what the window shows."""
        data = self.command("Page.captureScreenshot", format="png")["data"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(data))

    def close(self):
        """End the browser and remove what it left."""
        if self._socket:
            self._socket.close()
        self._process.terminate()
        self._process.wait(SECONDS)
        shutil.rmtree(self._folder, ignore_errors=True)


def wait_until(condition, complaint):
    """Ask a few times a second until the condition holds; raises Problem after half a minute."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise Problem(complaint)
        time.sleep(0.2)


def settings():
    """Address, database, login and password; the environment wins over `.local/run.env`."""
    values = {}
    if paths.RUN_ENV.exists():
        for word in shlex.split(paths.RUN_ENV.read_text(encoding="utf-8"), comments=True):
            name, _equals, value = word.partition("=")
            values[name] = value
    values.update(os.environ)
    names = ("ODOOOPS_URL", "ODOOOPS_DB", "ODOOOPS_LOGIN", "ODOOOPS_PASSWORD")
    missing = [name for name in names if not values.get(name)]
    if missing:
        raise Problem(f"Start a server with `make up`, or set {', '.join(missing)}.")
    return [values[name] for name in names]


def failed_run(odoo):
    """The newest failed run; a picture of a failure needs one."""
    runs = odoo.call("ops.run", "search", [["status", "=", "failed"]], limit=1)
    if not runs:
        raise Problem("No run of this server has failed yet.")
    return runs[0]


def take(names, folder, size):
    """Take the named pictures into the folder."""
    odoo = Odoo(*settings())
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not program:
        raise Problem("There is no chromium in PATH.")
    with contextlib.closing(Browser(program, *size)) as browser:
        browser.connect()
        session = {"name": "session_id", "value": odoo.session_id}
        browser.command("Network.setCookie", url=odoo.url, **session)
        for name in names:
            path, selector = PICTURES.get(name, (name, ".o_action_manager .o_view_controller"))
            if "{failed_run}" in path:
                path = path.format(failed_run=failed_run(odoo))
            browser.open(odoo.url + path, selector)
            file = folder / f"{name.strip('/').replace('/', '-')}.png"
            browser.picture(file)
            sys.stdout.write(f"{file}\n")


def main(arguments=None):
    """Entry point of `python3 -m devtools.screenshots`."""
    parser = argparse.ArgumentParser(prog="devtools.screenshots", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"{', '.join(PICTURES)}, or a path of the console"
    )
    parser.add_argument("--folder", type=Path, default=IMAGES)
    parser.add_argument("--width", type=int, default=1440)
    parser.add_argument("--height", type=int, default=900)
    options = parser.parse_args(arguments)
    size = (options.width, options.height)
    try:
        take(options.names or list(PICTURES), options.folder, size)
    except (Problem, OSError) as problem:
        parser.exit(1, f"{problem}\n")


if __name__ == "__main__":
    main()
