"""A simulator: CartPole behind a port, one JSON object a line. Like bigger ones it dies now and then, or freezes."""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import TextIO

import gymnasium


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--route", type=Path, required=True)
    args = parser.parse_args()
    route = json.loads(args.route.read_text())
    env = gymnasium.make("CartPole-v1", max_episode_steps=route["steps"])
    env.unwrapped.gravity = route["gravity"]
    # The same attempt at the same route always goes the same way.
    luck = random.Random(f"{args.route.stem}:{os.environ.get('GANGRUN_ATTEMPT', '001')}")
    trouble = route["trouble"] if luck.random() < 0.5 else ""
    when = luck.randrange(1, 20)
    with socket.create_server(("127.0.0.1", args.port)) as listener:
        while True:
            connection, _ = listener.accept()
            with connection, connection.makefile("rw") as line, suppress(OSError):  # who only knocks hangs up at once
                drive(env, route["seed"], line, trouble, when)


def drive(env: gymnasium.Env, seed: int, line: TextIO, trouble: str, when: int) -> None:
    """Tells what is to be seen, and takes the action for it, until the other side hangs up."""
    seen, _ = env.reset(seed=seed)
    step, score, over = 0, 0.0, False
    while True:
        line.write(json.dumps({"seen": seen.tolist(), "score": score, "over": over}) + "\n")
        line.flush()
        if not (action := line.readline()):
            return
        step += 1
        if step == when and trouble == "crash":
            print("Segmentation fault", flush=True)
            os._exit(139)
        if step == when and trouble == "freeze":
            time.sleep(3600)
        seen, reward, fell, ended, _ = env.step(json.loads(action))
        score, over = score + float(reward), bool(fell or ended)


if __name__ == "__main__":
    main()
