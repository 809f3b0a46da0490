"""Uploads to a hub on this machine: huggingface_hub's own requests, answered by a small server."""

import base64
import http.server
import json
import threading

import pytest
from huggingface_hub import ModelCard

from vit_jax.cli.main import main
from vit_jax.report import publish


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers as the hub does: a repository is created, files are asked for, a commit is made."""

    def do_POST(self):
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        self.server.asked.append((self.path, self.headers.get("Authorization")))
        if self.path == "/api/repos/create":
            told = json.loads(body)
            self.server.created = told
            if "forbidden" in json.dumps(told):
                return self.answer(403, dict(error="You don't have the rights"))
            return self.answer(200, dict(url="https://huggingface.co/owner/pets"))
        if self.path == "/api/validate-yaml":
            return self.answer(200, dict(errors=[], warnings=[]))
        if "/preupload/" in self.path:
            files = json.loads(body)["files"]
            plain = [
                dict(path=one["path"], uploadMode="regular", shouldIgnore=False) for one in files
            ]
            return self.answer(200, dict(files=plain))
        if "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.server.files[line["value"]["path"]] = content
            return self.answer(
                200,
                dict(
                    commitOid="0" * 40,
                    commitUrl=f"https://huggingface.co/owner/pets/commit/{'0' * 40}",
                    success=True,
                ),
            )
        return self.answer(404, dict(error="unknown"))

    def do_GET(self):
        self.server.asked.append((self.path, self.headers.get("Authorization")))
        if "forbidden" in self.path:
            return self.answer(404, dict(error="Repository not found"))
        return self.answer(200, dict(id="owner/pets", sha="0" * 40, siblings=[]))

    def answer(self, status, document):
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *words):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.asked, server.files, server.created = [], {}, None
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("format", ["huggingface", "timm"])
def test_a_run_is_uploaded_in_one_commit(format, hub, finished, capsys):
    words = ["push", str(finished), "owner/pets", "--private", f"--format={format}", "--json"]
    assert main([*words, "--license=apache-2.0"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert hub.created["name"] == "pets" and hub.created["organization"] == "owner"
    assert hub.created.get("private") is True or hub.created.get("visibility") == "private"
    assert {token for path, token in hub.asked if "validate" not in path} == {"Bearer hf_secret"}
    assert {name: len(content) for name, content in hub.files.items()} == told["files"]
    wanted = {"README.md", "config.json", "model.safetensors"}
    assert wanted <= hub.files.keys()
    assert ("preprocessor_config.json" in hub.files) == (format == "huggingface")
    card = ModelCard(hub.files["README.md"].decode())
    assert card.data.license == "apache-2.0" and "owner/pets" in card.text


def test_a_dry_run_lists_the_files_and_asks_nobody(hub, finished, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN")
    assert main(["push", str(finished), "owner/pets", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "model.safetensors" in out and "README.md" in out and "nothing was uploaded" in out
    assert hub.asked == []


def test_without_a_token_nothing_is_read(hub, finished, monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert main(["push", str(finished), "owner/pets"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no token" in line and "hf auth login" in line
    assert hub.asked == []


def test_a_refusal_by_the_hub_is_one_line(hub, finished, capsys):
    assert main(["push", str(finished), "forbidden/pets"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("vit_jax: the Hugging Face hub does not take forbidden/pets")
    assert "403" in line and "hf_secret" not in line


@pytest.mark.parametrize("words", [["pets"], ["a/b/c"], ["owner/pets", "--format=google"]])
def test_wrong_names_are_refused_before_anything_is_read(words, capsys):
    assert main(["push", "nowhere", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words[-1].removeprefix("--format=") in line


def test_formats_of_the_hub_are_formats_of_weights():
    from vit_jax.weights import FORMATS

    assert set(publish.LIBRARIES) <= set(FORMATS)
