"""The local Hub with branches and faults, and clients of it: processes of their own, with a cache of their own.

Clients read the Hub's address at import, so nothing here talks to it in the tests' own process.
"""

import importlib.metadata as metadata
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import local_hub
import pytest
from conftest import tiny_pipeline
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
TOKEN = "hf_" + "TestTokenThatMustNeverShow"
MODEL = ("model", "tester/nodules")


@dataclass
class Fault:
    """Something that goes wrong the next `times` times that a request of this kind comes."""

    method: str
    part: str  # of the path
    kind: str  # "cut upload", "cut answer", or a status
    times: int = 1


class FaultyHandler(local_hub.Handler):
    cut_answer = False

    def dispatch(self):
        for fault in self.server.faults:
            if fault.times and fault.method == self.command and fault.part in self.path:
                fault.times -= 1
                self.server.tokens.add(self.headers.get("Authorization"))
                return self.go_wrong(fault.kind)
        self.server.tokens.add(self.headers.get("Authorization"))
        super().dispatch()

    def go_wrong(self, kind: str):
        if kind == "cut upload":
            self.rfile.read(100)
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        elif kind == "cut answer":
            self.cut_answer = True
            super().dispatch()
        else:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.fail(int(kind), "Fault", "a fault of the test")

    def answer(self, body=b"", status=200, headers=None):
        if not self.cut_answer:
            return super().answer(body, status, headers)
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2])
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = dispatch


@local_hub.route("POST", local_hub.API + r"/branch/(?P<branch>[^/]+)")
def create_branch(request, kind, name, branch):
    if repo := request.repo(kind, name):
        repo.refs.setdefault(branch, repo.refs["main"])
        request.answer({})


@local_hub.route("POST", r"/faults")
def set_faults(request):
    """Lets a client say what goes wrong next: a list of the arguments of `Fault`."""
    request.server.faults = [Fault(*arguments) for arguments in json.loads(request.body)]
    request.answer({})


class Hub(local_hub.FakeHub):
    """The local Hub; `faults` are what goes wrong, `tokens` what clients sent as authorisation."""

    def __init__(self):
        super().__init__()
        self.RequestHandlerClass, self.faults, self.tokens = FaultyHandler, [], set()

    def files(self, kind: str, name: str, revision: str = "main") -> dict[str, bytes]:
        return self.repos[kind, name].at(revision)[2]

    def put(self, name: str, files: Path | dict[str, bytes]):
        """Makes `name` a model repository with these files, or those of a folder, without any client."""
        if isinstance(files, Path):
            paths = [path for path in files.rglob("*") if path.is_file()]
            files = {path.relative_to(files).as_posix(): path.read_bytes() for path in paths}
        repo = self.repos["model", name] = local_hub.Repo()
        repo.commit("put", files, "main")

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """Environment of a client whose cache is in `home`."""
        settings = {"HF_ENDPOINT": self.endpoint, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN, "HF_HOME": str(home)}
        return {**os.environ, **settings, "HF_HUB_OFFLINE": "0", "OMP_NUM_THREADS": "1", **more}

    def run(self, command: list[str], home: Path, check: bool = True, **more: str) -> subprocess.CompletedProcess:
        """Runs a client to its end; with `check` it must succeed."""
        done = subprocess.run(
            command, env=self.environment(home, **more), cwd=ROOT, capture_output=True, text=True, timeout=200
        )
        assert not check or done.returncode == 0, (done.stdout + done.stderr)[-3000:]
        assert TOKEN not in done.stdout + done.stderr
        return done

    def python(self, code: str, home: Path, *arguments, check: bool = True, **more: str):
        return self.run([sys.executable, "-c", code, *map(str, arguments)], home, check, **more)

    def publish(self, home: Path, *arguments, check: bool = True, **more: str) -> subprocess.CompletedProcess:
        return self.run([sys.executable, "training/publish.py", *map(str, arguments)], home, check, **more)


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub() as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A saved pipeline, in full and in half precision, with a hidden file that nobody should publish."""
    import torch

    folder = tmp_path_factory.mktemp("pipelines") / "nodules"
    pipeline = tiny_pipeline()
    pipeline.save_pretrained(folder)
    pipeline.to(torch.float16).save_pretrained(folder, variant="fp16")
    (folder / ".secret").write_text("not for the Hub")
    return folder


def needed_by(distribution: str, found: dict, extras: tuple[str, ...] = ()) -> dict[str, metadata.Distribution]:
    """The distributions that installing this one with these extras brings, itself left out."""
    for text in metadata.requires(distribution) or []:
        requirement = Requirement(text)
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        wanted = not requirement.marker or any(requirement.marker.evaluate({"extra": own}) for own in ("", *extras))
        if wanted and name not in found:
            found[name] = metadata.distribution(name)
            needed_by(name, found, tuple(requirement.extras))
    return found


def linked(environment: Path, distributions: dict[str, metadata.Distribution]):
    """Links what these distributions installed into an environment, in place of downloading them."""
    (packages,) = environment.glob("lib/python*/site-packages")
    for distribution in distributions.values():
        for name in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
            if not (packages / name).exists():
                (packages / name).symlink_to(Path(distribution.locate_file(name)).resolve())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    pytest.importorskip("hatchling", reason="building the wheel needs hatchling (group dev)")
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps", "-w", out, ROOT]
    subprocess.run(command, check=True, timeout=100)
    (built,) = out.glob("*.whl")
    return built
