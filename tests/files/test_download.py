"""Downloads from a local server: complete, resumed, changed, damaged."""

import functools
import hashlib
import http.server
import threading

import pytest

from cifar_jax.errors import DataError
from cifar_jax.files import download

CONTENT = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves `content` or a range of it, records the requests, and closes the connection after `limit` bytes."""

    content, version, limit = CONTENT, '"1"', None

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges = []


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        requested = self.headers.get("Range")
        server.ranges.append(requested)
        start = 0
        if requested and self.headers["If-Range"] == server.version:
            start = int(requested.removeprefix("bytes=").rstrip("-"))
        if start >= len(server.content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(server.content) - start))
        self.send_header("ETag", server.version)
        self.end_headers()
        self.wfile.write(server.content[start : server.limit])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def fetch(server, tmp_path):
    url = f"http://127.0.0.1:{server.server_port}/models/weights.pth"
    return functools.partial(download.fetch, url, tmp_path / "weights.pth", published=f"sha256:{SHA256[:8]}")


def names(folder):
    return {path.name for path in folder.rglob("*") if path.is_file()} - {"weights.pth.lock"}


COMPLETE = {"weights.pth", "weights.pth.sha256"}


def test_downloads_once(server, fetch, tmp_path):
    assert fetch() == SHA256
    assert (tmp_path / "weights.pth").read_bytes() == CONTENT
    assert fetch() == SHA256
    assert server.ranges == [None]
    assert names(tmp_path) == COMPLETE


def test_resumes_after_a_lost_connection(server, fetch, tmp_path):
    server.limit = 100_000
    with pytest.raises(OSError, match=r"100,000 of 256,000") as caught:
        fetch()
    assert "\n" not in str(caught.value)
    assert not COMPLETE & names(tmp_path)
    server.limit = None
    assert fetch() == SHA256
    assert server.ranges == [None, "bytes=100000-"]
    assert names(tmp_path) == COMPLETE


def test_starts_over_if_the_file_has_changed_on_the_server(server, fetch, tmp_path):
    server.content, server.version, server.limit = b"x" * 256_000, '"0"', 100_000
    with pytest.raises(OSError):
        fetch()
    server.content, server.version, server.limit = CONTENT, '"1"', None
    assert fetch() == SHA256


def test_a_part_that_is_already_complete(server, fetch, tmp_path):
    server.limit = 100_000
    with pytest.raises(OSError):
        fetch()
    (part,) = tmp_path.rglob("*.part")
    part.write_bytes(CONTENT)
    assert fetch() == SHA256
    assert names(tmp_path) == COMPLETE


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_a_wrong_checksum(algorithm, server, fetch, tmp_path):
    published = hashlib.new(algorithm, CONTENT).hexdigest()
    server.content = CONTENT[:-1] + b"!"
    with pytest.raises(DataError, match=f"published is {published}"):
        fetch(published=f"{algorithm}:{published}")
    assert names(tmp_path) <= {"weights.pth.version"}
    server.content = CONTENT
    assert fetch(published=f"{algorithm}:{published}") == SHA256


@pytest.mark.parametrize("published", [f"sha256:{SHA256}", ""])
def test_damage_after_the_download_is_noticed(published, fetch, tmp_path):
    fetch(published=published)
    (tmp_path / "weights.pth").write_bytes(b"!" + CONTENT[1:])
    with pytest.raises(DataError, match=r"weights\.pth: damaged since"):
        fetch(published=published)


def test_a_file_that_the_user_put_there_is_checked(server, fetch, tmp_path):
    (tmp_path / "weights.pth").write_bytes(CONTENT[:-1])
    with pytest.raises(DataError, match=r"weights\.pth: sha256 is"):
        fetch()
    (tmp_path / "weights.pth").write_bytes(CONTENT)
    assert fetch() == SHA256
    assert server.ranges == []


def test_no_server(server, fetch):
    server.server_close()
    with pytest.raises(OSError):
        fetch()


def test_two_processes_download_once(server, fetch):
    results = []
    threads = [threading.Thread(target=lambda: results.append(fetch())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [SHA256] * 4 and server.ranges == [None]
