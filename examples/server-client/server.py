"""Serves predictions of a small model over HTTP: listens at once, is healthy only when the model is there.

GET /health answers 503 while the model is being made and 200 afterwards, as inference servers do: this is why the
experiment waits for the URL and not for the port. POST /predict takes {"point": [x, y]}.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from classifier import Classifier, train


class Server(ThreadingHTTPServer):
    daemon_threads = True
    model: Classifier | None = None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps the connection for the next request
    wbufsize = -1  # head and body in one packet: two would wait for each other 40 ms (Nagle, delayed ACK)
    server: Server

    def do_GET(self) -> None:
        if self.path != "/health":
            return self.answer(404, {"error": "no such page"})
        if self.server.model is None:
            return self.answer(503, {"status": "loading"})
        return self.answer(200, {"status": "ready"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path != "/predict":
            return self.answer(404, {"error": "no such page"})
        if self.server.model is None:
            return self.answer(503, {"error": "the model is loading"})
        try:
            x, y = map(float, json.loads(body)["point"])
        except (ValueError, KeyError, TypeError):
            return self.answer(400, {"error": 'expected {"point": [x, y]}'})
        return self.answer(200, {"inside": self.server.model.predict((x, y))})

    def answer(self, status: int, content: dict[str, str | float]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """One line per request would bury the log."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # how a service is stopped once the client is done

    server = Server((args.host, args.port), Handler)
    listening = Thread(target=server.serve_forever, daemon=True)
    listening.start()
    print(f"listening on {args.host}:{server.server_port}, the model is loading", flush=True)
    start = time.perf_counter()
    server.model = train(args.seed)
    print(f"the model is ready after {time.perf_counter() - start:.1f} s", flush=True)
    listening.join()


if __name__ == "__main__":
    main()
