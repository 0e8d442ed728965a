"""A stand-in of the Hugging Face Hub on this machine."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """The part of the hub's protocol that a download uses: search, repository, file tree and files.

    `files` maps a repository's name (the first part of a dataset id) to its files; `broken` paths send half a file.
    """

    def __init__(self, owner: str = "farama-minari") -> None:
        self.owner = owner
        self.files: dict[str, dict[str, bytes]] = {}
        self.broken: set[str] = set()
        self.sent: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def do_GET(self) -> None:
                hub.answer(self, body=True)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"

    def publish(self, folder: Path, dataset_id: str) -> None:
        """Put a local dataset on the hub, with the namespaces that it is in."""
        repository, _, rest = dataset_id.partition("/")
        files = self.files.setdefault(repository, {})
        for path in (folder / dataset_id / "data").rglob("*"):
            if path.is_file():
                files[f"{rest}/data/{path.relative_to(folder / dataset_id / 'data')}"] = path.read_bytes()
        namespace = json.loads(files.get("namespace_metadata.json", b"{}"))
        inner = rest.rpartition("/")[0]
        if inner:
            files[f"{inner}/namespace_metadata.json"] = b"{}"
            namespace.setdefault("namespaces", []).append(f"{repository}/{inner}")
        namespace.setdefault("datasets", []).append(dataset_id)
        files["namespace_metadata.json"] = json.dumps(namespace).encode()

    def answer(self, request: BaseHTTPRequestHandler, body: bool) -> None:
        url = urlsplit(request.path)
        parts = url.path.strip("/").split("/")
        if url.path == "/":
            self.reply(request, b"", body)
        elif url.path == "/api/datasets":
            wanted = parse_qs(url.query).get("filter", [""])[0].removeprefix("dataset_name:")
            entries = [{"id": f"{self.owner}/{name}"} for name in self.files if name == wanted or not wanted]
            self.reply(request, json.dumps(entries).encode(), body)
        elif parts[:3] == ["api", "datasets", self.owner] and parts[3] in self.files:
            files = self.files[parts[3]]
            if parts[4:5] == ["tree"]:
                tree = [
                    {"type": "file", "path": p, "size": len(b), "oid": hashlib.sha1(b).hexdigest()} for p, b in files.items()
                ]
                self.reply(request, json.dumps(tree).encode(), body)
            else:
                siblings = [{"rfilename": path} for path in files]
                info = {"id": f"{self.owner}/{parts[3]}", "sha": COMMIT, "siblings": siblings}
                self.reply(request, json.dumps(info).encode(), body)
        elif parts[:2] == ["datasets", self.owner] and parts[3:4] == ["resolve"]:
            path = "/".join(parts[5:])
            contents = self.files.get(parts[2], {}).get(path)
            if contents is None:
                self.reply(request, b"", body, 404, {"X-Error-Code": "EntryNotFound"})
            else:
                if body:
                    self.sent.append(path)
                etag = hashlib.sha1(contents).hexdigest()
                self.reply(
                    request, contents, body, headers={"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}, cut=path in self.broken
                )
        else:
            self.reply(request, b"", body, 404, {"X-Error-Code": "RepoNotFound"})

    def reply(
        self,
        request: BaseHTTPRequestHandler,
        contents: bytes,
        body: bool,
        status: int = 200,
        headers: dict[str, str] | None = None,
        cut: bool = False,
    ) -> None:
        request.send_response(status)
        for name, value in (headers or {}).items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(contents)))
        request.end_headers()
        if body:
            request.wfile.write(contents[: len(contents) // 2] if cut else contents)
            request.close_connection = cut


@contextlib.contextmanager
def running_hub(patch: pytest.MonkeyPatch, folder: Path, owner: str = "farama-minari") -> Iterator[Hub]:
    """Run a hub for the libraries of this process and of those that it starts, whose caches are in `folder`."""
    hub = Hub(owner)
    patch.setenv("HF_ENDPOINT", hub.address)
    patch.setenv("HF_HOME", str(folder / "hugging_face"))
    patch.setenv("NO_PROXY", "127.0.0.1")
    patch.delenv("HF_HUB_OFFLINE")
    patch.delenv("MINARI_REMOTE", raising=False)
    yield hub
    hub.server.shutdown()
    hub.server.server_close()
