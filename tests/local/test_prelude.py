"""The local prelude: real scripts with plain processes, driven through the ways in which a job can go."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.prelude import PRELUDES, Run, start, wait_for, write

FOREVER = "while :; do sleep 0.1; done"
# Ends by itself at some time, so that a failing test leaves nothing for long.
DEAF = "trap '' TERM; for _ in {1..300}; do sleep 0.1; done"


def launch(run: Run, **env: str) -> subprocess.Popen[str]:
    log = (run.dir / "job.log").open("a")
    with log:
        return subprocess.Popen(
            ["bash", run.script], stdin=subprocess.DEVNULL, stdout=log, stderr=log, text=True, env={**os.environ, **env}
        )


def finish(run: Run, limit: float = 30) -> int:
    shell = launch(run)
    try:
        return shell.wait(limit)
    finally:
        shell.kill()  # if it did not end; what it started notices and ends, too


def processes(run: Run) -> list[str]:
    """What is alive of a run: the script and its subshells by their command line, programs by their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            line, environ = (path / "cmdline").read_bytes(), (path / "environ").read_bytes()
        except OSError:
            continue
        ours = f"GANGRUN_RUN_DIR={run.dir}".encode() in environ.split(b"\0") or str(run.script).encode() in line
        if ours and path.name != str(os.getpid()):
            found.append(f"{path.name} {line!r}")
    return found


def test_mains_end_with_0_and_the_service_and_sidecar_are_stopped(tmp_path: Path) -> None:
    run = write(
        tmp_path / "run",
        "local",
        "\n".join(
            [
                start("svc", "service", f"trap 'echo bye; exit 0' TERM; echo up; {FOREVER}"),
                start("gauge", "sidecar", FOREVER),
                start("m.0", "main", "echo out; echo err >&2"),
                start("m.1", "main", "sleep 0.5"),
            ]
        ),
        begin="1 2 0:0,0:1",
    )
    assert finish(run) == 0
    assert run.read("run.exit") == "0"
    assert run.read("run.cause") == ""
    assert (run.read("svc.0.exit"), run.read("gauge.0.exit"), run.read("m.0.exit")) == ("0", "143", "0")
    assert run.log("m.0") == "out\nerr\n"
    assert run.log("svc.0").split()[0] == "up"
    assert run.log("svc.0").split()[-1] == "bye"
    assert run.events("m.0") == ["start", "exit 0"]
    began, job, hosts, base = (run.status / "run.start").read_text().splitlines()
    assert abs(int(began) - time.time()) < 60
    assert job.startswith("local-")
    assert hosts == "127.0.0.1"
    assert 10000 <= int(base) < 32000
    assert (run.dir / "attempts" / "latest").readlink().name == "001"
    assert (run.dir / "job.log").read_text() == ""
    wait_for(lambda: processes(run) == [], 3)


def test_first_failing_main_gives_its_code_and_the_others_may_flush(tmp_path: Path) -> None:
    run = write(
        tmp_path / "run",
        "local",
        "\n".join(
            [
                start("m.0", "main", f"trap 'sleep 0.3; echo flushed; exit 6' TERM; touch {tmp_path}/up; {FOREVER}"),
                start("m.1", "main", f"until [[ -e {tmp_path}/up ]]; do sleep 0.05; done; exit 7"),
            ]
        ),
    )
    assert finish(run) == 7
    assert run.read("run.cause") == "main m.1 7"
    assert run.read("run.exit") == "7"
    assert (run.read("m.0.exit"), run.read("m.1.exit")) == ("6", "7")
    assert run.read("m.1.first").split()[:2] == ["7", "0"]
    assert "flushed" in run.log("m.0")
    assert "main m.1 7" in (run.dir / "job.log").read_text()


@pytest.mark.parametrize(("code", "expected"), [(0, 1), (5, 5)])
def test_service_that_ends_before_the_mains_fails_the_job(tmp_path: Path, code: int, expected: int) -> None:
    run = write(
        tmp_path / "run",
        "local",
        "\n".join([start("svc", "service", f"exit {code}"), start("m", "main", FOREVER)]),
    )
    assert finish(run) == expected
    assert run.read("run.cause") == f"service svc.0 {code}"
    assert run.read("svc.0.exit") == str(code)
    assert run.read("m.0.exit") == "143"


def test_sidecar_dies_unnoticed(tmp_path: Path) -> None:
    run = write(
        tmp_path / "run",
        "local",
        "\n".join([start("gauge", "sidecar", "exit 9"), start("m", "main", "sleep 0.5")]),
    )
    assert finish(run) == 0
    assert run.read("gauge.0.exit") == "9"


SERVER = """
import http.server, sys, time
class Page(http.server.BaseHTTPRequestHandler):
    began = time.monotonic()
    def do_GET(self):
        fine = self.path == "/health?a=b" and time.monotonic() - self.began > 0.5
        self.send_response(204 if fine else 503)
        self.end_headers()
    def log_message(self, *args): print("asked", flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Page).serve_forever()
"""


def test_ready_waits_for_port_page_and_file(tmp_path: Path) -> None:
    server = shlex.join([sys.executable, "-c", SERVER])
    run = write(
        tmp_path / "run",
        "local",
        "\n".join(
            [
                f'start web 0 service nodes=0 -- {server} "${{PORTS[0]}}"',
                start("web.1", "service", f"sleep 0.5; touch '{tmp_path}/a file'; {FOREVER}"),
                "ready web.0 port ${HOSTS[0]}:${PORTS[0]} 30",
                "ready web.0 http http://${HOSTS[0]}:${PORTS[0]}/health?a=b 30",
                f"ready web.1 file '{tmp_path}/a file' 30",
                start("m", "main", f"test -e '{tmp_path}/a file'"),
            ]
        ),
        begin="1 1 0:0",
    )
    assert finish(run) == 0
    assert run.events("web.0")[:3] == ["start", "ready", "ready"]
    assert run.events("web.1")[1] == "ready"
    # More than once: it was not taken for ready while it said 503.
    assert run.log("web.0").count("asked") > 1


@pytest.mark.parametrize("what", ["port 127.0.0.1:1", "http http://127.0.0.1:1/", "file /nowhere/at/all"])
def test_not_ready_in_time_fails_the_job_and_nothing_else_starts(tmp_path: Path, what: str) -> None:
    run = write(
        tmp_path / "run",
        "local",
        "\n".join([start("svc", "service", FOREVER), f"ready svc.0 {what} 1", start("m", "main", "echo started")]),
    )
    assert finish(run) == 1
    assert run.read("run.cause") == "unready svc.0 1"
    assert run.read("svc.0.exit") == "143"
    assert run.log("m.0") == ""


def test_service_that_dies_while_it_is_waited_for(tmp_path: Path) -> None:
    run = write(
        tmp_path / "run",
        "local",
        "\n".join([start("svc", "service", "exit 4"), "ready svc.0 file /nowhere/at/all 60"]),
    )
    assert finish(run) == 4
    assert run.read("run.cause") == "service svc.0 4"


def test_restarts_until_it_works_or_none_are_left(tmp_path: Path) -> None:
    count = f'echo life >>{tmp_path}/"$GANGRUN_REPLICA"; n=$(wc -l <{tmp_path}/"$GANGRUN_REPLICA")'
    run = write(
        tmp_path / "run",
        "local",
        "\n".join(
            [
                start("svc", "service", f"{count}; ((n > 2)) || exit 0; {FOREVER}", "restarts=2"),
                start("m", "main", f"{count}; ((n > 2)) || exit 3; sleep 0.5", "restarts=2"),
            ]
        ),
    )
    assert finish(run) == 0
    assert run.events("m.0") == ["start", "exit 3", "start", "exit 3", "start", "exit 0"]
    assert run.events("svc.0") == ["start", "exit 0", "start", "exit 0", "start", "exit 143"]

    run = write(tmp_path / "other", "local", start("n", "main", f"{count}; exit $((n + 1))", "restarts=1"))
    assert finish(run) == 3
    assert run.read("run.cause") == "main n.0 3"
    assert run.read("n.0.exit") == "3"
    assert run.read("n.0.first").split()[0] == "3"


def test_await_lets_the_next_one_start_only_after_the_end(tmp_path: Path) -> None:
    body = [
        start("a", "main", f"sleep 0.5; echo a >>{tmp_path}/order"),
        "await a.0",
        start("b", "main", f"echo b >>{tmp_path}/order"),
    ]
    run = write(tmp_path / "run", "local", "\n".join(body))
    assert finish(run) == 0
    assert (tmp_path / "order").read_text().split() == ["a", "b"]

    run = write(tmp_path / "other", "local", "\n".join([start("a", "main", "exit 8"), *body[1:]]))
    assert finish(run) == 8
    assert run.read("b.0.lives") == ""


@pytest.mark.parametrize(("sent", "code"), [("TERM", 143), ("INT", 130), ("HUP", 129)])
def test_a_signal_ends_everything_gracefully(tmp_path: Path, sent: str, code: int) -> None:
    run = write(
        tmp_path / "run",
        "local",
        "\n".join(
            [
                start("svc", "service", FOREVER),
                start("m", "main", f"trap 'echo flushed; exit 0' TERM; echo up; {FOREVER}"),
            ]
        ),
    )
    process = launch(run)
    run.wait_for(lambda run: "up" in run.log("m.0"))
    began = time.monotonic()
    process.send_signal(getattr(signal, f"SIG{sent}"))
    assert process.wait(20) == code
    assert time.monotonic() - began < 3
    assert run.read("run.cause") == f"signal {sent}"
    assert run.read("run.exit") == str(code)
    assert run.log("m.0").endswith("flushed\n")
    assert (run.read("m.0.exit"), run.read("svc.0.exit")) == ("0", "143")
    wait_for(lambda: processes(run) == [], 3)


def test_a_signal_ends_the_waiting_for_a_server_that_does_not_answer(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        run = write(
            tmp_path / "run",
            "local",
            start("svc", "service", f"echo up; {FOREVER}")
            + f"\nready svc.0 http http://127.0.0.1:{silent.getsockname()[1]} 60",
        )
        process = launch(run)
        run.wait_for(lambda run: "up" in run.log("svc.0"))
        silent.accept()[0].detach()  # stays open
        began = time.monotonic()
        process.terminate()
        assert process.wait(20) == 143
        assert time.monotonic() - began < 4.5  # one try alone would take 5


# As torchrun does it: workers in sessions of their own.
WORKER = "setsid sleep 60 & setsid bash -c 'trap \"\" TERM HUP; sleep 60' & (setsid sleep 60 &)"


def test_kill_9_of_the_script_leaves_nothing(tmp_path: Path) -> None:
    run = write(
        tmp_path / "run",
        "local",
        "\n".join(
            [
                start("svc", "service", DEAF, "restarts=5"),
                start("m", "main", f"{WORKER}; echo up; {FOREVER}", "restarts=5 tasks=2"),
                "start bare 0 main nodes=0 -- env -i sleep 60",
            ]
        ),
    )
    process = launch(run)
    run.wait_for(lambda run: run.log("m.0").count("up") == 2)
    assert len(processes(run)) > 8
    process.kill()
    # The script stays a zombie here: nobody may take it for alive.
    wait_for(lambda: processes(run) == [], 8)
    assert process.wait() == -signal.SIGKILL
    assert run.read("run.exit") == ""


def test_daemons_of_a_main_do_not_outlive_it(tmp_path: Path) -> None:
    run = write(
        tmp_path / "run",
        "local",
        "\n".join(
            [
                start("a", "main", f"{WORKER}; exit 0"),
                start(
                    "b",
                    "main",
                    f"until [[ -s {tmp_path}/run/attempts/001/status/a.0.exit ]]; do sleep 0.1; done; "
                    f"grep -lzF GANGRUN_REPLICA=a.0 /proc/[0-9]*/environ | grep -vc self; true",
                ),
            ]
        ),
    )
    assert finish(run) == 0
    assert run.log("b.0").split()[-1] == "0"


def test_one_that_ignores_the_request_is_made_to_end(tmp_path: Path) -> None:
    run = write(
        tmp_path / "run",
        "local",
        "\n".join(
            [
                start("svc", "service", f"{DEAF}"),
                start("m", "main", f"(trap '' TERM; setsid sleep 60) & touch {tmp_path}/up; {DEAF}"),
                start("n", "main", f"until [[ -e {tmp_path}/up ]]; do sleep 0.1; done; exit 5"),
            ]
        ),
        grace=1,
    )
    began = time.monotonic()
    assert finish(run) == 5
    assert 2 <= time.monotonic() - began < 12
    assert (run.read("svc.0.exit"), run.read("m.0.exit")) == ("137", "137")
    wait_for(lambda: processes(run) == [], 3)


def test_grace_is_not_cut_short(tmp_path: Path) -> None:
    run = write(
        tmp_path / "run",
        "local",
        "\n".join(
            [
                start("m", "main", f"trap 'sleep 1.8; echo flushed; exit 0' TERM; touch {tmp_path}/up; {FOREVER}"),
                start("n", "main", f"until [[ -e {tmp_path}/up ]]; do sleep 0.1; done; exit 5"),
            ]
        ),
        grace=2,
    )
    assert finish(run) == 5
    assert run.read("m.0.exit") == "0"
    assert "flushed" in run.log("m.0")


def test_a_failing_task_takes_its_replica_with_it(tmp_path: Path) -> None:
    run = write(
        tmp_path / "run",
        "local",
        start("m", "main", f"if ((GANGRUN_RANK == 2)); then sleep 0.3; exit 9; fi; {FOREVER}", "tasks=4"),
    )
    assert finish(run) == 9
    assert run.read("m.0.first").split()[:2] == ["9", "2"]
    wait_for(lambda: processes(run) == [], 3)


def test_ranks_over_nodes_and_tasks(tmp_path: Path) -> None:
    names = "RANK LOCAL_RANK WORLD_SIZE NODE_RANK MASTER_ADDR MASTER_PORT"
    command = f'for v in {names} GANGRUN_RANK; do line+=" ${{!v}}"; done; echo "$line"'
    run = write(
        tmp_path / "run",
        "local",
        f"start m 0 main nodes=1,2 tasks=2 ranks=1 master=1234 -- bash -c {shlex.quote(command)}\n"
        "start plain 0 main nodes=0 -- bash -c 'echo \"${RANK-none}\"'",
        begin="3 0",
    )
    assert finish(run) == 0
    rows = sorted(line.split() for line in run.log("m.0").splitlines())
    assert rows == [[str(r), str(r % 2), "4", str(r // 2), "127.0.0.1", "1234", str(r)] for r in range(4)]
    assert run.log("plain.0") == "none\n"
    assert (run.read("m.0.0.beat"), run.read("m.0.1.beat")) == ("exit 0", "exit 0")


def test_runs_hold_different_gpus_and_wait_for_each_other(tmp_path: Path) -> None:
    def holding(name: str) -> Run:
        command = (
            f'echo "$CUDA_VISIBLE_DEVICES"; until [[ -e {shlex.quote(str(tmp_path / "go"))} ]]; do sleep 0.1; done'
        )
        body = f"start m 0 main nodes=0 gpus=0,1 -- bash -c {shlex.quote(command)}"
        return write(tmp_path / name, "local", body, gpus=2)

    mine = [f"{os.getpid()}-{number}" for number in range(5)]  # as if this machine had these five
    runs = [holding(name) for name in ("one", "two", "three")]
    try:
        shells = [launch(run, CUDA_VISIBLE_DEVICES=",".join(mine)) for run in runs]
        wait_for(lambda: sum(bool(run.log("m.0")) for run in runs) == 2)
        held = [gpu for run in runs for gpu in run.log("m.0").strip().split(",") if gpu]
        assert len(held) == len(set(held)) == 4
        (late,) = (run for run in runs if not run.log("m.0"))
        (tmp_path / "go").touch()
        assert [shell.wait(30) for shell in shells] == [0, 0, 0]
        assert len(late.log("m.0").strip().split(",")) == 2
    finally:
        (tmp_path / "go").touch()
        for gpu in mine:
            Path("/tmp/gangrun-gpus", gpu).unlink(missing_ok=True)


def test_more_gpus_than_there_are(tmp_path: Path) -> None:
    run = write(tmp_path / "run", "local", start("m", "main", "true"), gpus=3)
    assert launch(run, CUDA_VISIBLE_DEVICES="0,1").wait(30) == 1
    assert run.read("run.cause") == "setup 1"
    assert "the plan needs 3 GPUs, this machine has 2" in (run.dir / "job.log").read_text()


def test_gpus_and_threads(tmp_path: Path) -> None:
    echo = shlex.quote('echo "[$CUDA_VISIBLE_DEVICES] ${OMP_NUM_THREADS-unset}"')
    run = write(
        tmp_path / "run",
        "local",
        "\n".join(
            [
                f"start a 0 main nodes=0 gpus=1 cpus=8 tasks=2 -- bash -c {echo}",
                f"start b 0 main nodes=1 gpus=0,2 cpus=1 tasks=4 -- bash -c {echo}",
                f"start c 0 main nodes=1 -- bash -c {echo}",
                f"start d 0 main nodes=1 cpus=8 -- env OMP_NUM_THREADS=3 bash -c {echo}",
                f"start e 0 main nodes=1 cpus=8 threads=2 -- bash -c {echo}",
            ]
        ),
        begin="2 0",
    )
    assert launch(run, CUDA_VISIBLE_DEVICES="GPU-a,GPU-b,3,4,5,6", SLURM_STEP_ID="").wait(30) == 0
    assert run.log("a.0") == "[GPU-b] 4\n" * 2
    assert run.log("b.0") == "[4,6] 1\n" * 4
    assert run.log("c.0") == "[] unset\n"
    assert run.log("d.0") == "[] 3\n"
    assert run.log("e.0") == "[] 2\n"


def test_words_arrive_unchanged(tmp_path: Path) -> None:
    words = [
        "--",
        "-n",
        "",
        " ",
        "a b",
        "'",
        '"',
        "\\",
        "$(touch x)",
        "`id`",
        "$HOME",
        "*",
        "a\nb",
        "Grüße 🚀",
        "!x",
        "a;b&c|d>e",
    ]
    program = "import json, sys; print(json.dumps(sys.argv[1:]))"
    run = write(
        tmp_path / "run",
        "local",
        "start m 0 main nodes=0 restarts=1 flags=1 --no-flag-of-ours -- "
        + shlex.join([sys.executable, "-c", program, *words]),
    )
    assert finish(run) == 0
    assert json.loads(run.log("m.0")) == words


@pytest.mark.parametrize("sent", ["USR1", "USR2"])
def test_user_signals_reach_the_mains_only(tmp_path: Path, sent: str) -> None:
    run = write(
        tmp_path / "run",
        "local",
        "\n".join(
            [
                start("svc", "service", FOREVER),
                start("m", "main", f"trap 'echo got; exit 0' {sent}; echo up; {FOREVER}"),
            ]
        ),
    )
    process = launch(run)
    run.wait_for(lambda run: "up" in run.log("m.0"))
    process.send_signal(getattr(signal, f"SIG{sent}"))
    assert process.wait(20) == 0
    assert "got" in run.log("m.0")


def test_interrupt_is_not_ignored_by_programs(tmp_path: Path) -> None:
    # Bash starts background processes with SIGINT ignored unless it does job control; Python then has no Ctrl-C.
    program = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    run = write(tmp_path / "run", "local", f"start m 0 main nodes=0 -- {shlex.join([sys.executable, '-c', program])}")
    assert finish(run) == 0
    assert run.log("m.0") == "True\n"


def test_ports_avoid_what_is_in_use(tmp_path: Path) -> None:
    # The script's process id decides where it begins to look: so it tells it, and waits until that is taken.
    run = write(tmp_path / "run", "local", start("m", "main", "true") + '\necho "${PORTS[@]}"', begin="1 3 0:0,0:2")
    run.script.write_text(run.script.read_text().replace("begin 1 3", "echo $$\nread -r _\nbegin 1 3"))
    with subprocess.Popen(
        ["bash", run.script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        seed = int(process.stdout.readline())
        first, second = (10000 + (seed * 101 + i * 1009) % (22000 - 3) for i in range(2))
        with socket.socket() as one, socket.socket(socket.AF_INET6) as two:
            one.bind(("127.0.0.1", first))
            one.listen()
            two.bind(("::1", second + 2))
            two.listen()
            process.stdin.write("\n")
            process.stdin.flush()
            ports = [int(word) for word in process.stdout.readline().split()]
        assert process.wait(20) == 0
    assert ports[0] not in {first, second}
    assert ports == [ports[0] + i for i in range(3)]
    assert 10000 <= ports[0] < 32000
    assert (run.status / "run.start").read_text().splitlines()[3] == str(ports[0])


def test_setup_shapes_the_environment_of_the_programs(tmp_path: Path) -> None:
    run = write(
        tmp_path / "run",
        "local",
        start("m", "main", 'pwd; echo "$A"'),
        setup=["set -u -o pipefail", "export A='x y'", f"cd {tmp_path}", "trap 'echo mine' EXIT TERM"],
    )
    assert finish(run) == 0
    assert run.log("m.0") == f"{tmp_path}\nx y\n"
    assert run.read("run.exit") == "0"


@pytest.mark.parametrize(
    ("line", "code", "cause"), [("false", 1, "setup 1"), ("(exit 6)", 6, "setup 6"), ("exit 0", 1, "setup 0")]
)
def test_setup_that_fails_starts_nothing(tmp_path: Path, line: str, code: int, cause: str) -> None:
    run = write(tmp_path / "run", "local", start("m", "main", "true"), setup=[line, "touch /dev/null"])
    assert finish(run) == code
    assert run.read("run.cause") == cause
    assert run.read("run.exit") == str(code)
    assert run.read("m.0.lives") == ""


def test_a_second_life_of_the_script_is_a_second_attempt(tmp_path: Path) -> None:
    run = write(tmp_path / "run", "local", start("m", "main", "echo $GANGRUN_ATTEMPT"))
    assert finish(run) == 0
    assert finish(run) == 0
    assert (run.dir / "attempts" / "latest").readlink().name == "002"
    assert run.log("m.0") == "002\n"


def test_a_program_that_does_not_exist(tmp_path: Path) -> None:
    run = write(tmp_path / "run", "local", "start m 0 main nodes=0 -- no-such-program-anywhere")
    assert finish(run) == 127
    assert run.read("run.cause") == "main m.0 127"
    assert "no-such-program-anywhere" in run.log("m.0")


@pytest.mark.parametrize("scheduler", ["local", "slurm"])
def test_shellcheck_is_content(tmp_path: Path, scheduler: str) -> None:
    run = write(tmp_path / "run", scheduler, start("m", "main", "true"))
    shellcheck = Path(sys.executable).with_name("shellcheck")
    for path in (run.script, PRELUDES / "common.sh", PRELUDES / f"{scheduler}.sh"):
        done = subprocess.run([shellcheck, "--shell=bash", str(path)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_a_run_waits_for_another_that_has_not_begun(tmp_path: Path) -> None:
    """Two scripts that are started at once: the other has neither an attempt nor anything in it when this one looks."""
    other = write(tmp_path / "other", "local", start("m.0", "main", "true"))
    needs = f"needs {other.dir}/attempts/001"
    run = write(tmp_path / "run", "local", start("m.0", "main", "echo after"), setup=(needs,))
    waiting = launch(run)
    try:
        run.wait_for(lambda run: run.read("run.start"))
        assert finish(other) == 0
        assert waiting.wait(20) == 0
    finally:
        waiting.kill()
    assert run.log("m.0") == "after\n"
