"""Samples, scores and batches: groups of rollouts from the service, rewards, advantages within a group, a file a step.

Weights come back through `broadcasts/step_N` beside `rollouts/step_N`; every server is told of each new one.
"""

from __future__ import annotations

import json
import os
import random
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from config import settings

POLL = 0.05
"""Seconds between looks for a file."""


def exchange(output_dir: str) -> Path:
    """Where this life of the job exchanges files, so that it never meets those of an earlier one."""
    life = f"{os.environ.get('GANGRUN_RUN_NAME', 'run')}.{os.environ.get('GANGRUN_ATTEMPT', '001')}"
    return Path(output_dir) / "exchange" / life


def first_step(output_dir: Path, resume_step: int) -> int:
    """The step to begin with: 0, the one that was said, or for -1 that of the last checkpoint."""
    steps = [int(path.name.removeprefix("step_")) for path in (output_dir / "checkpoints").glob("step_*")]
    return max(steps, default=0) if resume_step == -1 else resume_step


def wait_for(path: Path) -> None:
    """Until it is there."""
    while not path.exists():
        time.sleep(POLL)


def post(url: str, content: dict[str, Any]) -> dict[str, Any]:
    """The answer to a question in JSON."""
    request = urllib.request.Request(url, json.dumps(content).encode(), {"Content-Type": "application/json"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310
        return json.load(answer)


class Servers:
    """The inference service, one address for each of its nodes."""

    def __init__(self, urls: list[str]) -> None:
        self.urls = [url.removesuffix("/v1") for url in urls]
        self.pool = ThreadPoolExecutor(len(self.urls))

    def update(self, weights: Path) -> None:
        """Tells all of new weights."""
        list(self.pool.map(lambda url: post(f"{url}/update_weights", {"weight_dir": str(weights)}), self.urls))

    def complete(self, prompts: list[str], count: int, sampling: dict[str, Any]) -> list[list[dict[str, Any]]]:
        """`count` completions for each prompt, the prompts shared out among the servers."""
        shares = [prompts[index :: len(self.urls)] for index in range(len(self.urls))]

        def ask(index: int) -> list[dict[str, Any]]:
            if not shares[index]:
                return []
            question = {"prompt": shares[index], "n": count, **sampling}
            return post(f"{self.urls[index]}/v1/completions", question)["choices"]

        answers = list(self.pool.map(ask, range(len(self.urls))))
        found: list[list[dict[str, Any]]] = [[] for _ in prompts]
        for index, choices in enumerate(answers):
            for choice in choices:
                found[index + len(self.urls) * (choice["index"] // count)].append(choice)
        return found


def reward(prompt: str, answer: str) -> float:
    """The share of letters that stand where they do in the reversed prompt."""
    right = sum(a == b for a, b in zip(prompt[::-1], answer, strict=False))
    return right / max(len(prompt), len(answer))


def prompts(draw: random.Random, count: int, task: dict[str, Any]) -> list[str]:
    """Random strings of letters."""
    letters = "abcdefgh"[: task.get("letters", 8)]
    lengths = range(task.get("min_length", 3), task.get("max_length", 5) + 1)
    return ["".join(draw.choices(letters, k=draw.choice(lengths))) for _ in range(count)]


def write(path: Path, content: object) -> None:
    """By rename, so that nobody reads half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.new")
    draft.write_text(json.dumps(content), encoding="utf-8")
    draft.rename(path)


def main() -> None:
    config = settings()
    output_dir = Path(config.get("output_dir"))
    folder = exchange(str(output_dir))
    task = config.get("env")[0].get("args", {})
    sampling = config.get("sampling", {})
    group, size, workers = (config.get(key) for key in ("rollouts_per_example", "batch_size", "num_train_workers"))
    servers = Servers(config.get("client.base_url"))
    start = first_step(output_dir.parent, config.get("ckpt.resume_step", 0))
    draw = random.Random(start)
    loaded, rewards = -1, []
    for step in range(start, config.get("max_steps")):
        # How far the policy that samples may be behind the one that learns.
        wanted = max(step - config.get("max_async_level", 0), start)
        if wanted > loaded:
            wait_for(folder / f"broadcasts/step_{wanted}")
            servers.update(folder / f"broadcasts/step_{wanted}")
            loaded = wanted
        asked = prompts(draw, size // group, task)
        rollouts: list[dict[str, Any]] = []
        scored = []
        for prompt, choices in zip(asked, servers.complete(asked, group, sampling), strict=True):
            scores = [reward(prompt, choice["text"]) for choice in choices]
            mean, spread = fmean(scores), pstdev(scores)
            scored += scores
            for score, choice in zip(scores, choices, strict=True):
                advantage = (score - mean) / (spread + 1e-4)
                rollouts.append({"prompt": prompt, "advantage": advantage, **choice["logprobs"]})
        for rank in range(workers):
            write(folder / f"rollouts/step_{step}/rank_{rank}.json", rollouts[rank::workers])
        rewards.append(fmean(scored))
        print(f"step {step + 1}/{config.get('max_steps')}  reward {rewards[-1]:.3f}", flush=True)
    last = config.get("max_steps")
    wait_for(folder / f"broadcasts/step_{last}")
    servers.update(folder / f"broadcasts/step_{last}")
    # The trainer has ended by now; the service stays until this is over.
    asked = prompts(random.Random(-1), 200, task)
    answers = servers.complete(asked, 1, {**sampling, "temperature": 0})
    right = fmean(choices[0]["text"] == prompt[::-1] for prompt, choices in zip(asked, answers, strict=True))
    write(output_dir.parent / "metrics.json", {"reward": rewards, "right": right})
    print(f"evaluation: {right:.1%} of 200 strings reversed without a mistake", flush=True)


if __name__ == "__main__":
    main()
