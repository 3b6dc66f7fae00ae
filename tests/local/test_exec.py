"""`gangrun exec` and `gangrun shell` beside runs on this machine."""

from __future__ import annotations

from tests.gangrun_cli import Project, marked, sh, wait_for

FILE = "exp/long.toml"
TWO = f"""
[env]
A = "two words"
[roles.train]
{sh("cd /usr && exec sleep 600")}
[roles.serve]
kind = "service"
replicas = 2
{sh("exec sleep 600")}
"""


def test_a_command_runs_as_the_program_does(project: Project) -> None:
    project.write(FILE, TWO)
    project.ok("submit", FILE)
    wait_for(lambda: len(project.run().get("replicas", {})) == 3)
    words = 'echo "$A in $PWD as $GANGRUN_REPLICA"; echo oops >&2; exit 7'
    done = wait_for(lambda: (one := project.gangrun("exec", "--role", "train", "--", "bash", "-c", words)).out and one)
    assert (done.code, done.out, done.err) == (7, "two words in /usr as train.0\n", "oops\n")
    assert project.gangrun("exec", "--role", "serve.1", "--", "printenv", "GANGRUN_REPLICA").out == "serve.1\n"
    assert project.gangrun("exec", "--role", "train", "--", "no-such-program").code == 127
    for words, told in (
        ([], "has 3 replicas: serve.0, serve.1, train.0\n  way out: --role serve.0"),
        (["--role", "serve"], "has 2 replicas: serve.0, serve.1\n  way out: --role serve.0"),
        (["--role", "trian"], "has no replica 'trian'\n  way out: did you mean train?"),
        (["--role", "serve.7"], "has no replica 'serve.7'\n  way out: did you mean serve"),
    ):
        done = project.gangrun("exec", *words, "--", "true")
        assert (done.code, told in done.err) == (2, True), done.err
    assert "there is no command" in project.gangrun("exec").err
    assert "a shell needs a terminal" in project.gangrun("shell", "--role", "train").err

    terminal = project.terminal("gangrun", "shell", "--role", "train")
    terminal.type("tty; echo I am $((40 + 2)) in $PWD; sleep 500 &\n")
    assert "/dev/pts/" in terminal.see("I am 42 in /usr")
    terminal.type("exit 9\n")
    assert terminal.done() == 9

    run = project.run()["dir"]
    assert [line for line in marked(f"GANGRUN_RUN_DIR={run}") if "sleep 500" in line]
    project.ok("cancel", "latest")
    wait_for(lambda: not marked(f"GANGRUN_RUN_DIR={run}"))
    wait_for(lambda: project.run()["state"] == "CANCELLED")
    done = project.gangrun("exec", "--", "true")
    assert (done.code, "has ended: it is CANCELLED" in done.err) == (2, True)
