"""Serves the model over HTTP: completions as OpenAI's API has them, a health path, and new weights on request.

GET  /health              200 once the model is loaded, 503 before
POST /v1/completions      {"prompt": ["abc", …], "n": 16, "max_tokens": 6, "temperature": 1.0}
POST /update_weights      {"weight_dir": "…/step_3"}
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from config import settings
from model import END, SEPARATOR, Reverser, decode, encode, load


class Service:
    """The model, used by one request at a time."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.model: Reverser | None = None
        self.version = "initial"

    def complete(self, asked: dict[str, Any]) -> dict[str, Any]:
        """`n` completions of each prompt, in order."""
        prompts = [asked["prompt"]] if isinstance(asked["prompt"], str) else asked["prompt"]
        count, limit, heat = asked.get("n", 1), asked.get("max_tokens", 16), asked.get("temperature", 1.0)
        choices: list[dict[str, Any]] = []
        with self.lock, torch.no_grad():
            # Prompts of one length go through the model together.
            for length in sorted({len(prompt) for prompt in prompts}):
                rows = [row for row, prompt in enumerate(prompts) for _ in range(count) if len(prompt) == length]
                answers, chances = self._sample([prompts[row] for row in rows], limit, heat)
                for number, (row, tokens, logprobs) in enumerate(zip(rows, answers, chances, strict=True)):
                    # Up to the end and with it, if it came.
                    size = tokens.index(END) + 1 if END in tokens else len(tokens)
                    choices.append(
                        {
                            "index": row * count + number % count,
                            "text": decode(tokens),
                            "logprobs": {"tokens": tokens[:size], "token_logprobs": logprobs[:size]},
                            "finish_reason": "stop" if END in tokens else "length",
                        }
                    )
        choices.sort(key=lambda choice: choice["index"])
        return {"object": "text_completion", "model": self.version, "choices": choices}

    def _sample(self, prompts: list[str], limit: int, heat: float) -> tuple[list[list[int]], list[list[float]]]:
        model = self.loaded()
        tokens = torch.tensor([[*encode(prompt), SEPARATOR] for prompt in prompts])
        start, chances = tokens.shape[1], []
        for _ in range(limit):
            logs = model(tokens)[:, -1].log_softmax(-1)
            drawn = (logs / heat).softmax(-1).multinomial(1) if heat else logs.argmax(-1, keepdim=True)
            chances.append(logs.gather(1, drawn))
            tokens = torch.cat([tokens, drawn], 1)
        return tokens[:, start:].tolist(), torch.cat(chances, 1).tolist()

    def loaded(self) -> Reverser:
        """The model; an error while there is none."""
        if self.model is None:
            raise ValueError("the model is not loaded yet")
        return self.model

    def update(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Takes the weights of a directory."""
        weights = torch.load(Path(asked["weight_dir"]) / "weights.pt")
        with self.lock:
            self.loaded().load_state_dict(weights)
            self.version = Path(asked["weight_dir"]).name
        return {"status": "ok"}


SERVICE = Service()


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: two would wait for each other 40 ms

    def do_GET(self) -> None:
        if self.path == "/health":
            self._answer(200 if SERVICE.model else 503, {})
        else:
            self._answer(404, {"error": f"there is no {self.path}"})

    def do_POST(self) -> None:
        ways = {"/v1/completions": SERVICE.complete, "/update_weights": SERVICE.update}
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path not in ways or SERVICE.model is None:
            self._answer(404 if SERVICE.model else 503, {"error": f"there is no {self.path}, or not yet"})
            return
        try:
            self._answer(200, ways[self.path](json.loads(body)))
        except (ValueError, KeyError, TypeError, OSError) as error:
            self._answer(400, {"error": f"{type(error).__name__}: {error}"})

    def _answer(self, code: int, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """One line a request is too much."""


def main() -> None:
    config = settings()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server = ThreadingHTTPServer(("", config.get("server.port", 8000)), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    torch.set_num_threads(1)
    SERVICE.model = load(config.get("model.name"), config.get("model.max_model_len", 16))
    print(f"serving {config.get('model.name')} on port {server.server_port}", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
