"""Headless Chromium for tests of pages, spoken to over its debugging pipe."""

import base64
import fcntl
import io
import json
import os
import select
import shutil
import subprocess
import time

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))),
    None,
)


class Browser:
    """Headless Chromium, spoken to over its debugging pipe (JSON messages that end in a zero
    byte)."""

    def __init__(self, profile):
        down, up = os.pipe(), os.pipe()
        # out of the way of 3 and 4
        ends = [fcntl.fcntl(fd, fcntl.F_DUPFD, 20) for fd in (down[0], up[1])]
        self.process = subprocess.Popen(
            [
                CHROMIUM,
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--autoplay-policy=no-user-gesture-required",
                "--remote-debugging-pipe",
                f"--user-data-dir={profile}",
                "about:blank",
            ],
            pass_fds=[*ends, 3, 4],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=lambda: (os.dup2(ends[0], 3), os.dup2(ends[1], 4)),
        )
        for fd in (down[0], up[1], *ends):
            os.close(fd)
        self.inward, self.outward, self.rest, self.n, self.events, self.session = (
            down[1],
            up[0],
            b"",
            0,
            [],
            None,
        )
        page = next(
            target
            for target in self("Target.getTargets")["targetInfos"]
            if target["type"] == "page"
        )
        self.session = self("Target.attachToTarget", targetId=page["targetId"], flatten=True)[
            "sessionId"
        ]
        for domain in ("Runtime", "Log", "Network", "Page"):
            self(f"{domain}.enable")

    def __call__(self, method, **params):
        self.n += 1
        message = {"id": self.n, "method": method, "params": params}
        message |= {"sessionId": self.session} if self.session else {}
        os.write(self.inward, json.dumps(message).encode() + b"\0")
        return self.wait(lambda answer: answer.get("id") == self.n)["result"]

    def wait(self, wanted, seconds=60):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            while b"\0" in self.rest:
                one, _, self.rest = self.rest.partition(b"\0")
                answer = json.loads(one)
                self.events += [answer] if "method" in answer else []
                if wanted(answer):
                    assert "error" not in answer, answer
                    return answer
            if select.select([self.outward], [], [], 1)[0]:
                self.rest += os.read(self.outward, 1 << 20)
        raise TimeoutError("the browser did not answer")

    def open(self, path):
        self("Page.navigate", url=path.as_uri())
        self.wait(lambda answer: answer.get("method") == "Page.loadEventFired")

    def js(self, code):
        answer = self("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def photograph(self, query):
        """The lightness, 0 to 1, of the pixels of the first such element that are on the screen;
        (height, width)."""
        from matplotlib import image

        box = self.js(
            f"(() => {{ const e = document.querySelector({query!r}); e.scrollIntoView();const {{x,"
            " y, width, height} = e.getBoundingClientRect();return {x: x + scrollX, y: y +"
            " scrollY, width: Math.min(width, innerWidth - x), height,scale: 1} })()"
        )
        data = self("Page.captureScreenshot", clip=box, captureBeyondViewport=True)["data"]
        return image.imread(io.BytesIO(base64.b64decode(data)))[..., :3].mean(axis=-1)

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.inward)
        os.close(self.outward)
