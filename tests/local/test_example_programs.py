"""The example programs themselves, without gangrun: what they print, leave behind, and how they fail."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
QUICKSTART = EXAMPLES / "quickstart" / "train.py"
SERVER = EXAMPLES / "server-client" / "server.py"
BASELINE = EXAMPLES / "diloco" / "ddp.py"
CLIENT = EXAMPLES / "server-client" / "client.py"


def run(program: Path, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, program, *map(str, words)], capture_output=True, text=True, timeout=60, check=False
    )


def test_quickstart_learns_the_digits_and_leaves_what_it_learnt(tmp_path: Path) -> None:
    done = run(QUICKSTART, "--seed", 3, "--epochs", 12, "--out", tmp_path / "new" / "run")

    assert done.returncode == 0, done.stderr
    epochs = re.findall(r"^epoch +(\d+)/12  loss (\d\.\d+)  accuracy (\d\.\d+)$", done.stdout, re.MULTILINE)
    assert [int(number) for number, _, _ in epochs] == list(range(1, 13))
    assert float(epochs[-1][1]) < float(epochs[0][1]) / 4

    metrics = json.loads((tmp_path / "new" / "run" / "metrics.json").read_text())
    assert metrics.keys() == {"loss", "accuracy", "epoch"}
    assert metrics["epoch"] == 12
    assert metrics["accuracy"] >= 0.93
    assert [f"{metrics['loss']:.4f}", f"{metrics['accuracy']:.3f}"] == list(epochs[-1][1:])

    with np.load(tmp_path / "new" / "run" / "weights.npz") as weights:
        from sklearn.datasets import load_digits  # here, since it takes a second

        digits = load_digits()
        hidden = np.maximum(digits.data / 16 @ weights["w1"] + weights["b1"], 0)
        guesses = (hidden @ weights["w2"] + weights["b2"]).argmax(axis=1)
    assert (guesses == digits.target).mean() > 0.95


def test_quickstart_repeats_for_a_seed_and_differs_between_seeds(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert run(QUICKSTART, "--seed", seed, "--epochs", 1, "--out", tmp_path / name).returncode == 0
    a, b, c = ((tmp_path / name / "metrics.json").read_text() for name in "abc")
    assert a == b
    assert a != c


def test_quickstart_fails_when_the_loss_is_not_finite(tmp_path: Path) -> None:
    done = run(QUICKSTART, "--lr", 1000, "--out", tmp_path)
    assert done.returncode == 1
    assert "try an --lr below 1000.0" in done.stderr
    assert list(tmp_path.iterdir()) == []


def status(url: str, body: bytes | None = None) -> int | None:
    """The HTTP status of an answer, None where nobody listens."""
    try:
        with urllib.request.urlopen(url, data=body, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except urllib.error.URLError:
        return None


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "gave up after 30 s"
        time.sleep(0.02)


@contextmanager
def serving(*words: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Starts a server and yields it with its HOST:PORT; it is gone afterwards whatever happens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(SERVER), "--port", str(port), *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            yield server, f"127.0.0.1:{port}"
        finally:
            server.kill()


def test_server_is_unhealthy_while_it_loads_then_answers_and_ends_well_on_sigterm() -> None:
    with serving() as (server, address):
        health = f"http://{address}/health"
        wait_until(lambda: status(health) is not None)
        assert status(health) == 503
        assert status(f"http://{address}/predict", b'{"point": [0, 0]}') == 503
        wait_until(lambda: status(health) == 200)

        assert status(f"http://{address}/predict", b'{"point": [0, 0]}') == 200
        assert status(f"http://{address}/predict", b'{"point": [0]}') == 400
        assert status(f"http://{address}/predict", b"no JSON") == 400
        assert status(f"http://{address}/elsewhere") == 404

        server.send_signal(signal.SIGTERM)
        output, _ = server.communicate(timeout=30)
        assert server.returncode == 0
        assert re.search(r"^the model is ready after \d+\.\d s$", output, re.MULTILINE)


def test_client_accepts_the_right_answers_and_fails_on_others() -> None:
    with serving("--seed", 5) as (_, address):
        wait_until(lambda: status(f"http://{address}/health") == 200)

        same = run(CLIENT, "--server", address, "--seed", 5, "--requests", 200)
        assert same.returncode == 0, same.stderr
        assert re.search(r"^200 predictions in \d+\.\d\d s, \d+ per second$", same.stdout, re.MULTILINE)
        right = re.search(r"right for (\d+\.\d)% of the points", same.stdout)
        assert right is not None
        assert float(right[1]) > 90

        other = run(CLIENT, "--server", address, "--seed", 6, "--requests", 200)
        assert other.returncode == 1
        assert re.search(r"\d+ of 200 predictions differ", other.stderr)


class Busy(BaseHTTPRequestHandler):
    """Says 503 to everything, as the server does while it loads, for as long as a test needs it."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_error(503)

    def log_message(self, *_: object) -> None:
        pass


def test_client_fails_when_the_server_is_still_loading() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Busy) as server:
        Thread(target=server.serve_forever).start()
        early = run(CLIENT, "--server", f"127.0.0.1:{server.server_port}", "--requests", 1)
        server.shutdown()
    assert early.returncode == 1
    assert "The server answered 503" in early.stderr


@pytest.mark.torch
def test_the_ddp_baseline_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    pytest.importorskip("torch")

    def trained(steps: int) -> list[str]:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = str(probe.getsockname()[1])
        rank = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
        rank |= {"MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        argv = [sys.executable, str(BASELINE), f"--steps={steps}", "--batch=2", f"--out={tmp_path}"]
        done = subprocess.run(argv, env={**os.environ, **rank}, capture_output=True, text=True, timeout=250)
        assert done.returncode == 0, done.stderr
        return re.findall(r"^step (\d+)/", done.stdout, re.MULTILINE)

    assert trained(10) == ["10"]
    assert trained(30) == ["20", "30"]
