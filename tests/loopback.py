"""Small MIDI archives, and a server on this machine that breaks in the ways servers break."""

import io
import socket
import struct
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from starts import HERE, start


def midi(number):
    """A small MIDI file that differs with `number`."""
    return (
        b"MThd\0\0\0\6\0\0\0\1\1\xe0MTrk\0\0\0\x0c\0\x90"
        + bytes([number % 128])
        + b"P\x60\x80"
        + bytes([number % 128])
        + b"\0\0\xff\x2f\0"
    )


FILES = {
    "ABBA/Fernando.mid": midi(1),
    "ABBA/Waterloo.MID": midi(2),
    "Björk/Jóga.mid": midi(3),
    "ABBA/cover.jpg": b"x",
}


def tar_bytes(files, top=""):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(top + name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def download(root, *flags, code=0):
    """Runs the script as a user does, with short waits; returns its output."""
    done = start([HERE / "tests/short_waits.py", "--root", root, *map(str, flags)])
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def corpus(root):
    folder = root / "data/raw_midi"
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


class Handler(BaseHTTPRequestHandler):
    """Serves `server.body` with ranges; `server.faults` is a list of functions, one used up per
    request. A fault that returns True has answered the request; otherwise the usual answer
    follows."""

    def do_GET(self):
        self.server.requests.append(self.headers.get("Range"))
        if not (self.server.faults and self.server.faults.pop(0)(self)):
            self.answer()

    def start(self):
        """The first byte that the client asks for, if it asks for this version."""
        asked = self.headers.get("Range")
        return (
            int(asked[6:].rstrip("-"))
            if asked and self.headers.get("If-Range") in (self.server.etag, None)
            else 0
        )

    def answer(self, head=None, pause=None, **wrong):
        """Sends the file; of its bytes only `head`, or each after a `pause` in seconds. wrong:
        headers that lie."""
        body, start = self.server.body, self.start()
        if start >= len(body):
            return status(416)(self)
        headers = {"ETag": self.server.etag, "Content_Length": len(body) - start}
        if start:
            headers["Content_Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        self.send_response(206 if start else 200)
        for name, value in {**headers, **wrong}.items():
            if value is not None:
                self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        data = body[start:] if head is None else body[start : start + head]
        try:
            for index in range(len(data) if pause else 0):
                self.wfile.write(data[index : index + 1])
                time.sleep(pause)
            self.wfile.write(b"" if pause else data)
            self.wfile.flush()
        except OSError:  # the client has gone away
            pass

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None
    server.body, server.etag, server.faults, server.requests = tar_bytes(FILES), '"v1"', [], []
    server.url = f"http://127.0.0.1:{server.server_port}/music.tar.gz"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def break_after(n_bytes, reset=False):
    """The connection ends, or is reset, after so many bytes of the answer."""

    def fault(handler):
        handler.answer(head=n_bytes)
        if reset:
            handler.connection.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
        else:
            handler.connection.shutdown(socket.SHUT_RDWR)
        handler.connection.close()
        return True

    return fault


def stall_after(n_bytes, seconds):
    """The connection stays open and silent after so many bytes."""

    def fault(handler):
        handler.answer(head=n_bytes)
        time.sleep(seconds)
        return True

    return fault


def lie(**headers):
    """A full answer with wrong headers (Content_Length=10 ...)."""

    def fault(handler):
        handler.answer(**headers)
        handler.close_connection = True
        return True

    return fault


def status(code, headers=()):
    """An empty answer with this status."""

    def fault(handler):
        handler.send_response(code)
        for name, value in headers:
            handler.send_header(name, value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return True

    return fault
