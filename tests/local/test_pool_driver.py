"""The pool's driver and agents as plain processes of this machine, without a scheduler around them."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gangrun.node.pool.channel import Channel, ChannelError, nonce, proof
from tests.gangrun_cli import marked, wait_for
from tests.pool import Pool, alive, bash, item


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    with Pool(tmp_path / "run") as pool:
        yield pool


def left(pool: Pool) -> list[str]:
    """Processes of its items."""
    return marked(*(f"GANGRUN_RUN_DIR={path}" for path in (pool.dir / "items").glob("*")))


def test_each_item_has_its_gpus_log_and_exit_code_and_fails_alone(pool: Pool) -> None:
    items = [
        bash(f"i{n}", f"echo $GANGRUN_ITEM $CUDA_VISIBLE_DEVICES; sleep 0.2; exit {n == 3:d}", gpus=1) for n in range(8)
    ]
    pool.write([*items, bash("cpu", "echo gpus=$CUDA_VISIBLE_DEVICES. $GANGRUN_RUN_DIR $X", env={"X": "a b"})])
    driver = pool.drive()
    agents = [pool.work(0, "4,5"), pool.work(1, "GPU-aa,GPU-bb")]
    code, out = pool.ended(driver)
    assert code == 1
    assert "i3 failed with 1" in out
    assert "8 done, 1 failed, 0 left" in out
    assert [pool.ended(agent)[0] for agent in agents] == [0, 0]
    known = pool.fold().items
    assert {index: history.state for index, history in known.items()} == {
        n: "failed" if n == 3 else "done" for n in range(9)
    }
    for number in range(8):
        (span,) = known[number].spans
        assert pool.log(f"i{number}") == f"i{number} {span.gpus[0]}\n"
        assert span.node == ("n0" if span.gpus[0] in {"4", "5"} else "n1")
        assert 0.1 <= span.seconds < 30
    for one, other in ((a.spans[0], b.spans[0]) for a in known.values() for b in known.values() if a is not b):
        if one.gpus and one.gpus == other.gpus:
            assert (one.ended or 0) <= other.started or (other.ended or 0) <= one.started
    assert pool.log("cpu") == f"gpus=. {pool.dir}/items/cpu a b\n"
    status = pool.status()
    assert (status["done"], status["failed"], status["running"], status["size"]) == (8, 1, 0, 4)
    assert 0 < status["occupancy"] <= 1


def test_the_longest_goes_first_and_others_in_the_order_of_the_file(pool: Pool) -> None:
    pool.write([item(f"i{n}", "true", gpus=1, estimate=estimate) for n, estimate in enumerate([2, 9, 4])])
    driver = pool.drive()
    pool.work(0, "0")
    assert pool.ended(driver)[0] == 0
    assert [event["item"] for event in pool.events("Started")] == [1, 2, 0]


def test_gpus_are_shared_in_fractions_and_wide_items_are_not_starved(pool: Pool) -> None:
    halves = [bash(f"h{n}", "sleep 0.3", gpus=0.5) for n in range(4)]
    pool.write(
        [
            *halves,
            *(bash(f"s{n}", "sleep 0.1", gpus=1) for n in range(12)),
            bash("wide", "echo $CUDA_VISIBLE_DEVICES", gpus=2, estimate=1),
        ]
    )
    driver = pool.drive()
    pool.work(0, "0,1", cpus=16)
    assert pool.ended(driver)[0] == 0
    started = [event["item"] for event in pool.events("Started")]
    assert started[0] == 16, "longest first"
    assert pool.log("wide") == "0,1\n"
    spans = [pool.fold().items[n].spans[0] for n in range(4)]
    assert sorted(span.gpus[0] for span in spans) == ["0", "0", "1", "1"]


def test_an_item_that_no_node_could_hold(pool: Pool) -> None:
    pool.write([item("wide", "true", gpus=3), item("good", "true", gpus=1)])
    driver = pool.drive()
    pool.work(0, "0,1")
    code, out = pool.ended(driver)
    assert code == 1
    assert "wide needs 3 GPUs and 0 CPUs, which no node has" in out
    assert pool.fold().items[0].spans[-1].why == "unstartable"
    assert pool.fold().items[1].state == "done"


def test_what_cannot_be_started_says_so_in_its_log(pool: Pool) -> None:
    pool.write([item("absent", "no-such-program", gpus=0), item("nowhere", "true", cwd="/no/such/folder")])
    driver = pool.drive()
    pool.work()
    assert pool.ended(driver)[0] == 1
    assert "No such file or directory: 'no-such-program'" in pool.log("absent")
    assert "/no/such/folder" in pool.log("nowhere")
    assert [pool.fold().items[n].spans[0].code for n in (0, 1)] == [127, 127]


def test_retries(pool: Pool) -> None:
    twice = "echo $GANGRUN_ATTEMPT; test -e there || { touch there; exit 5; }"
    pool.write([bash("flaky", twice, retries=2), bash("hopeless", "exit 6", retries=1)])
    driver = pool.drive()
    pool.work()
    code, out = pool.ended(driver)
    assert code == 1
    known = pool.fold().items
    assert [span.code for span in known[0].spans] == [5, 0]
    assert known[0].state == "done"
    assert [span.code for span in known[1].spans] == [6, 6]
    assert known[1].state == "failed"
    assert (pool.log("flaky", 1), pool.log("flaky", 2)) == ("001\n", "002\n")
    assert "flaky ended with 5 and is tried again" in out


TREE = """
trap 'echo asked' TERM
setsid bash -c 'trap "" TERM; echo $$; while :; do sleep 0.1; done' &
(setsid sleep 100 &)
echo $$
for i in {1..300}; do sleep 0.1; done
"""


def test_a_timeout_ends_the_whole_tree(pool: Pool) -> None:
    pool.write([bash("slow", TREE, timeout=0.5), bash("good", "sleep 2")])
    driver = pool.drive()
    pool.work()
    code, _ = pool.ended(driver)
    assert code == 1
    (span,) = pool.fold().items[0].spans
    assert span.why == "timeout"
    assert 1.4 < span.seconds < 3
    assert "asked" in pool.log("slow")
    for pid in map(int, re.findall(r"\d+", pool.log("slow"))):
        assert not alive(pid)
    assert pool.fold().items[1].state == "done"
    assert not left(pool)


def test_what_an_item_leaves_behind_ends_with_it_and_not_with_another(pool: Pool) -> None:
    leaving = "(setsid bash -c 'echo $$; exec sleep 100' &); sleep 0.3; exit 0"
    staying = "(setsid bash -c 'echo $$; exec sleep 100' &); sleep 2; read -r pid < log; kill -0 $pid"
    pool.write(
        [bash("leaves", leaving), bash("stays", staying.replace("log", "items/stays/attempts/001/logs/main.0.log"))]
    )
    driver = pool.drive()
    pool.work()
    wait_for(lambda: pool.fold().items.get(0) and pool.fold().items[0].state == "done")
    assert wait_for(lambda: not alive(int(pool.log("leaves"))), 1)
    code, out = pool.ended(driver)
    assert code == 0, out
    assert wait_for(lambda: not left(pool))


def test_a_killed_driver_repeats_only_what_was_running(pool: Pool) -> None:
    pool.write(
        [bash("short", "sleep 0.1"), bash("long", "echo here; sleep 1.5"), bash("later", "true")], max_parallel=2
    )
    driver = pool.drive()
    agent = pool.work()
    pool.wait_for("Ended", 2)
    (opened,) = pool.events("Opened")
    os.kill(opened["pid"], signal.SIGKILL)
    code, out = pool.ended(driver)
    assert code == 0, out
    assert "the driver ended with 137, and is begun again" in out
    assert "2 items are done and 0 failed already, 1 were interrupted and run again" in out
    known = pool.fold().items
    assert [len(known[n].spans) for n in range(3)] == [1, 2, 1]
    assert all(history.state == "done" for history in known.values())
    assert (pool.log("long", 1), pool.log("long", 2)) == ("here\n", "here\n")
    assert pool.ended(agent)[0] == 0


def test_a_torn_journal_and_a_further_attempt(pool: Pool) -> None:
    pool.write([bash("a", "true"), bash("b", "sleep 100"), bash("c", "true")], max_parallel=1)
    driver = pool.drive()
    pool.work()
    pool.wait_for("Started", 2)
    for process in pool.processes:
        os.killpg(process.pid, signal.SIGKILL)
    file = pool.dir / "pool" / "journal.jsonl"
    file.write_bytes(file.read_bytes() + b'{"t":1.0,"type":"Ended","item":1,"tr')
    items = pool.dir / "items.jsonl"
    items.write_text(items.read_text().replace("sleep 100", "true"))
    for pid in (int(line.split(":")[0]) for line in left(pool)):
        os.kill(pid, signal.SIGKILL)  # what the script's own sweep would do
    driver = pool.drive(GANGRUN_ATTEMPT="002")
    pool.work()
    assert pool.ended(driver)[0] == 0
    assert [len(pool.fold().items[n].spans) for n in range(3)] == [1, 2, 1]
    assert [event["attempt"] for event in pool.events("Opened")] == ["001", "002"]


@pytest.mark.parametrize("fruitless", [1, 2])
def test_jobs_in_which_nothing_ends_are_not_queued_without_end(pool: Pool, tmp_path: Path, fruitless: int) -> None:
    pool.write([bash("long", "sleep 300")], **{"continue": True})
    for name, text in (("squeue", "echo 0:40"), ("sbatch", f"echo 8; echo queued >>{tmp_path}/queued")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    earlier = [{"t": n, "type": "Opened", "job": n, "attempt": f"00{n}"} for n in range(1, fruitless + 1)]
    (pool.dir / "pool").mkdir()
    (pool.dir / "pool" / "journal.jsonl").write_text("".join(json.dumps(one) + "\n" for one in earlier))
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    driver = pool.drive(GANGRUN_ATTEMPT=f"00{fruitless + 1}", SLURM_JOB_ID="7", PATH=path)
    pool.work()
    assert driver.stdout
    words = "job 8 will go on" if fruitless == 1 else "no item came to its end in 3 jobs in a row"
    while words not in (line := driver.stdout.readline()):
        assert line, "it ended"
    assert (tmp_path / "queued").exists() is (fruitless == 1)


def test_an_item_that_cannot_end_in_time_is_not_even_begun(pool: Pool) -> None:
    pool.write([bash("long", "true", estimate=100), bash("short", "true", estimate=5)])
    driver = pool.drive(SLURM_JOB_ID="7", SLURM_JOB_END_TIME=str(int(time.time()) + 60))
    pool.work()
    code, out = pool.ended(driver)
    assert code == 1
    assert "1 done, 0 failed, 1 left, which could not have ended before the time limit" in out
    assert [event["item"] for event in pool.events("Started")] == [1]


def test_estimates_that_cannot_be_seconds_keep_nothing_from_being_run(pool: Pool) -> None:
    pool.write([bash(f"i{n}", "sleep 0.1", estimate=1000 + n) for n in range(5)])
    driver = pool.drive(SLURM_JOB_ID="7", SLURM_JOB_END_TIME=str(int(time.time()) + 60))
    pool.work(cpus=1)
    assert pool.ended(driver)[0] == 0
    assert len(pool.events("Ended")) == 5


def test_an_asked_driver_ends_all_gently_and_leaves_the_rest_for_later(pool: Pool) -> None:
    pool.write(
        [
            bash(f"i{n}", "trap 'echo bye; exit 0' TERM; echo up; for i in {1..300}; do sleep 0.1; done")
            for n in range(6)
        ]
    )
    driver = pool.drive()
    pool.work(cpus=4)
    pool.wait_for("Started", 4)
    wait_for(
        lambda: len([file for file in pool.dir.glob("items/*/attempts/001/logs/main.0.log") if file.read_text()]) == 4
    )
    driver.terminate()
    code, out = pool.ended(driver)
    assert code == 143
    assert "0 done, 0 failed, 6 left" in out
    assert [event["why"] for event in pool.events("Ended")] == ["stopped"] * 4
    assert all(pool.log(f"i{n}").endswith("bye\n") for n in range(4))
    assert {history.state for history in pool.fold().items.values()} == {"waiting"}
    assert wait_for(lambda: not left(pool))


def test_an_item_that_dies_of_a_signal_to_the_whole_job_is_run_again(pool: Pool) -> None:
    pool.write([bash("a", "echo here; sleep 100"), bash("b", "exit 143")])
    driver = pool.drive()
    agent = pool.work()
    pool.wait_for("Ended")
    (sleeping,) = wait_for(lambda: [int(line.split(":")[0]) for line in left(pool) if line.endswith("sleep 100 ")])
    os.kill(sleeping, signal.SIGTERM)
    os.kill(agent.pid, signal.SIGTERM)
    driver.terminate()
    assert pool.ended(driver)[0] == 143
    assert [(event["item"], event.get("why")) for event in pool.events("Ended")] == [(1, None), (0, "stopped")]


def test_agents_end_their_items_when_the_driver_is_gone(pool: Pool) -> None:
    pool.write([bash("a", "echo here; sleep 100")])
    driver = pool.drive()
    agent = pool.work()
    pool.wait_for("Started")
    wait_for(lambda: left(pool))
    os.killpg(driver.pid, signal.SIGKILL)
    assert wait_for(lambda: not left(pool))
    assert agent.poll() is None, "it waits for another driver"
    agent.terminate()
    assert pool.ended(agent, 3)[0] == 0


def test_what_a_killed_agent_was_running_is_run_again(pool: Pool) -> None:
    pool.write([bash("a", "echo here; test $GANGRUN_ATTEMPT != 001 || sleep 100")])
    driver = pool.drive()
    agent = pool.work()
    pool.wait_for("Started")
    os.killpg(agent.pid, signal.SIGKILL)
    pool.work()
    code, out = pool.ended(driver)
    assert code == 0, out
    assert "n0 is lost" in out
    assert [(span.why, span.again) for span in pool.fold().items[0].spans] == [("lost", True), ("", False)]


def test_neither_end_obeys_one_who_does_not_know_the_key(pool: Pool) -> None:
    pool.write([bash("a", "true")])
    driver = pool.drive()
    stranger = pool.work(0, GANGRUN_POOL_KEY="guess")
    assert stranger.stdout
    assert stranger.stdout.readline() == "agent: no driver yet (that is not our driver)\n"
    with socket.create_connection(("127.0.0.1", pool.port)) as connection:
        channel = Channel(connection)
        channel.send({"hello": nonce()})
        channel.flush()
        (answer,) = wait_for(channel.receive)
        named = {"agent": "0", "only": None, "host": "n0", "gpus": [], "cpus": 1}
        channel.send({"proof": proof("agent", answer["hello"]), **named})  # by the key of this process, which has none
        channel.flush()
        with pytest.raises(ChannelError, match="closed"):
            wait_for(channel.receive)
    assert not pool.events("NodeUp")
    stranger.terminate()
    pool.work(1)
    assert pool.ended(driver)[0] == 0
    assert pool.fold().items[0].spans[0].node == "n1"
    assert not marked(f"GANGRUN_POOL_KEY={pool.key}", "GANGRUN_POOL_KEY=guess") or wait_for(
        lambda: not marked(f"GANGRUN_POOL_KEY={pool.key}")
    )


def test_items_do_not_get_the_key(pool: Pool) -> None:
    pool.write([bash("a", "env")])
    driver = pool.drive()
    pool.work()
    assert pool.ended(driver)[0] == 0
    assert "GANGRUN_POOL_KEY" not in pool.log("a")


def test_the_throttle_is_obeyed_while_it_runs(pool: Pool) -> None:
    pool.write([bash(f"i{n}", "sleep 0.4") for n in range(20)], max_parallel=1)
    driver = pool.drive()
    pool.work(cpus=8)
    pool.wait_for("Ended", 2)
    (pool.dir / "throttle").write_text("6 0\n")
    assert pool.ended(driver)[0] == 0
    running = most = 0
    for event in pool.events():
        running += {"Started": 1, "Ended": -1}.get(event["type"], 0)
        most = max(most, running)
    assert most == 6


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_full_disk_under_the_journal_is_waited_for(pool: Pool) -> None:
    pool.write([item(f"i{n}", "true") for n in range(60)])
    folder = pool.dir / "pool"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", folder], check=True)
    try:
        driver = pool.drive()
        pool.work(cpus=2)
        assert driver.stdout
        assert "the disk takes no more of the journal" in driver.stdout.readline()
        subprocess.run(["mount", "-o", "remount,size=1m", folder], check=True)
        code, out = pool.ended(driver, 60)
        assert (code, "60 done, 0 failed, 0 left" in out) == (0, True), out
        assert [len(history.spans) for history in pool.fold().items.values()] == [1] * 60
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


MODULE = """
import os, sys, time
LOADED = time.time()
def work(x, how="well"):
    print(f"x={x} gpus={os.environ['CUDA_VISIBLE_DEVICES']} pid={os.getpid()} item={os.environ['GANGRUN_ITEM']}")
    if how == "badly": raise ValueError("no good")
    if how == "exit": sys.exit(7)
    if how == "crash": os.kill(os.getpid(), 11)
    if how == "slow": time.sleep(100)
    return {"x2": x * 2}
"""


def test_warm_items_share_workers_and_crash_alone(pool: Pool) -> None:
    hows = ["well", "badly", "exit", "crash", "slow", *["well"] * 15]
    items = [
        item(f"i{n}", gpus=1, parameters={"x": n, "how": how}, timeout=1 if how == "slow" else 60)
        for n, how in enumerate(hows)
    ]
    pool.write(items, call="mine:work")
    (pool.dir / "mine.py").write_text(MODULE)
    driver = pool.drive()
    agent = pool.work(0, "0,1")
    code, out = pool.ended(driver)
    assert code == 1, out
    assert "16 done, 4 failed" in out
    known = pool.fold().items
    ends = [(known[n].spans[0].code, known[n].spans[0].why) for n in range(5)]
    assert ends == [(0, ""), (1, ""), (7, ""), (139, ""), (143, "timeout")]
    assert "ValueError: no good" in pool.log("i1")
    by_gpu: dict[str, set[str]] = {}
    for number in range(20):
        found = re.match(rf"x={number} gpus=(\d) pid=(\d+) item=i{number}\n", pool.log(f"i{number}"))
        assert found, pool.log(f"i{number}")
        by_gpu.setdefault(found[1], set()).add(found[2])
    assert by_gpu.keys() == {"0", "1"}
    workers = sum(len(pids) for pids in by_gpu.values())
    assert 3 <= workers <= 4, "two, and another after each that died, while there was something left to do"
    assert json.loads((pool.dir / "items/i7/metrics.json").read_text()) == {"x2": 14}
    assert pool.ended(agent)[0] == 0
    assert not any(alive(int(pid)) for pids in by_gpu.values() for pid in pids)


def test_a_function_that_is_not_there(pool: Pool) -> None:
    pool.write([item("a", parameters={})], call="no_such_module:f")
    driver = pool.drive()
    pool.work()
    assert pool.ended(driver)[0] == 1
    assert "No module named 'no_such_module'" in pool.log("a")
