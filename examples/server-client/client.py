"""Asks a server for predictions, compares each with a model of its own, and tells how fast the answers came."""

from __future__ import annotations

import argparse
import http.client
import json
import math
import random
import sys
import time

from classifier import Point, inside, random_point, train


def ask(connection: http.client.HTTPConnection, point: Point) -> float:
    """Returns the server's probability that the point lies inside the circle."""
    connection.request("POST", "/predict", body=json.dumps({"point": point}).encode())
    response = connection.getresponse()
    body = response.read()
    if response.status != 200:
        sys.exit(f"The server answered {response.status}: {body.decode(errors='replace')}")
    return json.loads(body)["inside"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", required=True, metavar="HOST:PORT")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="must be the server's, or the models differ")
    args = parser.parse_args()

    rng = random.Random(f"questions {args.seed}")
    points = [random_point(rng) for _ in range(args.requests)]
    connection = http.client.HTTPConnection(args.server, timeout=30)
    start = time.perf_counter()
    answers = [ask(connection, point) for point in points]
    seconds = time.perf_counter() - start
    connection.close()
    print(f"{len(answers)} predictions in {seconds:.2f} s, {len(answers) / seconds:.0f} per second", flush=True)

    model = train(args.seed)
    # Nearly equal: the mathematical library of another machine may round the last digit otherwise.
    own = [model.predict(point) for point in points]
    wrong = [p for p, a, b in zip(points, answers, own, strict=True) if not math.isclose(a, b, rel_tol=1e-6)]
    if wrong:
        sys.exit(f"{len(wrong)} of {len(points)} predictions differ from this side's model, the first at {wrong[0]}")
    right = sum((answer > 0.5) == inside(p) for p, answer in zip(points, answers, strict=True))
    print(f"all equal to this side's model, which is right for {right / len(points):.1%} of the points", flush=True)


if __name__ == "__main__":
    main()
