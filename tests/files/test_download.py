"""Downloads against a server of our own: whole, resumed, changed, damaged."""

import hashlib
import http.server
import threading

import pytest

from cifar_jax.errors import DataError
from cifar_jax.files import download
from cifar_jax.pretrained.catalogue import Entry
from cifar_jax.pretrained.families import IMAGENET

CONTENT = bytes(range(256)) * 1000


class Server(http.server.ThreadingHTTPServer):
    """Serves `content`, in parts where asked for, and notes the requests; breaks off after `limit` bytes."""

    content, version, limit = CONTENT, '"1"', None

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges = []


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        wanted = self.headers.get("Range")
        server.ranges.append(wanted)
        start = 0
        if wanted and self.headers["If-Range"] == server.version:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
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
def entry(server):
    url = f"http://127.0.0.1:{server.server_port}/models/weights.pth"
    digest = hashlib.sha256(CONTENT).hexdigest()
    return Entry(url, f"sha256:{digest[:8]}", None, None, "v1.5", IMAGENET)


def names(folder):
    return {path.name for path in folder.rglob("*") if path.is_file()} - {"weights.pth.lock"}


WHOLE = {"weights.pth", "weights.pth.sha256"}


def test_once(server, entry, tmp_path):
    path, sha256 = download.fetch(entry.url, tmp_path, published=entry.hash)
    assert path.read_bytes() == CONTENT
    assert sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert download.fetch(entry.url, tmp_path, published=entry.hash) == (path, sha256)
    assert server.ranges == [None]
    assert names(tmp_path) == WHOLE


def test_resumed_where_it_broke_off(server, entry, tmp_path):
    server.limit = 100_000
    with pytest.raises(DataError, match=r"100,000 of 256,000") as caught:
        download.fetch(entry.url, tmp_path, published=entry.hash)
    assert "\n" not in str(caught.value)
    assert not WHOLE & names(tmp_path)
    server.limit = None
    path, _ = download.fetch(entry.url, tmp_path, published=entry.hash)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100000-"]
    assert names(tmp_path) == WHOLE


def test_another_file_by_the_time_it_goes_on(server, entry, tmp_path):
    server.content, server.version, server.limit = b"x" * 256_000, '"0"', 100_000
    with pytest.raises(DataError):
        download.fetch(entry.url, tmp_path, published=entry.hash)
    server.content, server.version, server.limit = CONTENT, '"1"', None
    path, _ = download.fetch(entry.url, tmp_path, published=entry.hash)
    assert path.read_bytes() == CONTENT


def test_only_the_check_was_missing(server, entry, tmp_path):
    server.limit = 100_000
    with pytest.raises(DataError):
        download.fetch(entry.url, tmp_path, published=entry.hash)
    (part,) = tmp_path.rglob("*.part")
    part.write_bytes(CONTENT)
    path, _ = download.fetch(entry.url, tmp_path, published=entry.hash)
    assert path.read_bytes() == CONTENT
    assert names(tmp_path) == WHOLE


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_a_wrong_hash(algorithm, server, entry, tmp_path):
    digest = hashlib.new(algorithm, CONTENT).hexdigest()
    entry = Entry(entry.url, f"{algorithm}:{digest}", None, None, "v1.5", IMAGENET)
    server.content = CONTENT[:-1] + b"!"
    with pytest.raises(DataError, match=f"published is {digest}"):
        download.fetch(entry.url, tmp_path, published=entry.hash)
    assert not WHOLE & names(tmp_path)
    server.content = CONTENT
    download.fetch(entry.url, tmp_path, published=entry.hash)


@pytest.mark.parametrize("published", [True, False])
def test_damage_after_the_download_is_noticed(published, server, entry, tmp_path):
    entry = entry if published else Entry(entry.url, "", None, None, "v1.5", IMAGENET)
    path, _ = download.fetch(entry.url, tmp_path, published=entry.hash)
    path.write_bytes(b"!" + CONTENT[1:])
    with pytest.raises(DataError, match=r"weights\.pth: damaged since"):
        download.fetch(entry.url, tmp_path, published=entry.hash)


def test_no_server(server, entry, tmp_path):
    server.server_close()
    with pytest.raises(DataError, match=r"cannot be downloaded .*give its path"):
        download.fetch(entry.url, tmp_path, published=entry.hash)


def test_two_at_a_time_download_once(server, entry, tmp_path):
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(download.fetch(entry.url, tmp_path, published=entry.hash)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1 and server.ranges == [None]
