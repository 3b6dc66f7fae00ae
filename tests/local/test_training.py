"""RL from one TOML on this machine: its output directory, what it may hold, and the tmux session that shows a run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gangrun.spec import toml
from tests.gangrun_cli import Done, Project, marked, wait_for

Said = Callable[..., Done]

CONFIG = """
job_name = "tiny"
num_train_nodes = 1
num_infer_nodes = 1
gpus_per_node = 0
max_steps = 3
[model]
name = "some model"
[trainer]
[orchestrator]
[inference]
[commands]
inference = ["python", "-m", "http.server", "{port}", "--directory", "web"]
orchestrator = ["bash", "-c", 'echo "token <$TOKEN>"; echo "asks $1"', "-", "{urls}"]
trainer = ["bash", "-c", 'echo "trains"; cp "$1" trained.toml', "-", "{config}"]
[gangrun.roles.trainer]
launcher = "exec"
"""


@pytest.fixture
def tiny(project: Project) -> Project:
    """A project with a small RL configuration, a.toml."""
    project.write("web/health", "")
    project.write("a.toml", CONFIG)
    return project


def test_a_run_in_its_own_directory(tiny: Project) -> None:
    tiny.write(".env", "TOKEN='a secret'\n")
    done = tiny.ok("rl", "@", "a.toml", "--wait")
    run = tiny.run()
    assert run["run"].startswith("project_tiny_")
    folder = Path(run["dir"])
    assert f"tail -F {folder}/slurm/latest_orchestrator.log" in done.out
    text = (folder / "slurm/latest_orchestrator.log").read_text()
    assert "token <a secret>" in text
    assert 'asks ["http://' in text
    assert "trains" in (folder / "slurm/latest_train_node_rank_0.log").read_text()
    assert (folder / "slurm/latest_infer_node_rank_0.log").is_file()
    assert "a secret" not in (folder / "rl.sh").read_text()
    trainer = toml.read(folder / "configs/trainer.toml")[0]
    assert (trainer["model"], trainer["tokenizer"]) == ({"name": "some model"}, {"name": "some model"})
    assert (trainer["max_steps"], trainer["output_dir"]) == (3, str(folder))
    orchestrator = toml.read(folder / "configs/orchestrator.toml")[0]
    assert orchestrator["output_dir"] == f"{folder}/run_default"
    assert (tiny.dir / "trained.toml").read_text() == (folder / "configs/trainer.toml").read_text()
    assert not marked(f"GANGRUN_RUN_DIR={folder}"), "the service went with the others"


def test_it_waits_for_the_steps_that_it_needs(tiny: Project) -> None:
    wait = "for ((n = 0; n < 600; n++)); do [[ -e go ]] && exit; sleep 0.1; done; exit 1"
    tiny.write("000_data_0.toml", f"command = ['bash', '-c', '{wait}']\n")
    tiny.ok("submit", "000_data_0.toml")
    tiny.ok("rl", "@", "a.toml", "--gangrun.needs", "000_data_0")
    assert (
        f'"type":"Needs","run":"{tiny.run("000_data_0")["run"]}"'
        in Path(tiny.run("tiny")["dir"], "events.jsonl").read_text()
    )
    assert not (tiny.dir / "trained.toml").exists()
    tiny.write("go", "")
    wait_for(lambda: tiny.run("tiny")["state"] == "COMPLETED")
    assert (tiny.dir / "trained.toml").exists()


def test_an_output_directory_holds_one_run(tiny: Project, said: Said) -> None:
    words = ("rl", "@", "a.toml", "--output-dir", "out dir/it's", "--wait")
    tiny.ok(*words)
    out = tiny.dir / "out dir" / "it's"
    first = tiny.run()
    assert (out / "run").readlink() == Path(first["dir"])
    assert "trains" in (out / "slurm/latest_train_node_rank_0.log").read_text()
    assert toml.read(out / "configs/trainer.toml")[0]["output_dir"] == str(out)
    (out / "mine.txt").write_text("kept")

    refused = said(*words)
    assert refused.code == 2
    assert f"{out}: the output directory holds {first['run']}" in refused.err
    assert "--resume" in refused.err
    assert "--clean" in refused.err
    assert len(tiny.runs()) == 1

    tiny.ok(*words, "--resume")
    second = tiny.run()
    assert second["run"] != first["run"]
    assert (out / "mine.txt").read_text() == "kept"
    assert toml.read(out / "configs/trainer.toml")[0]["ckpt"]["resume_step"] == -1

    beside = tiny.write("out dir/beside.txt", "kept")
    (out / "link").symlink_to(beside.parent)
    tiny.ok(*words, "--clean")
    assert not (out / "mine.txt").exists()
    assert beside.read_text() == "kept", "a link is deleted, not what it leads to"
    assert len(tiny.runs()) == 3, "the record of what was cleaned away stays"


@pytest.mark.parametrize("out", [(), ("--output-dir", "o")], ids=["in the run", "in an output_dir"])
def test_a_later_attempt_goes_on_from_the_last_checkpoint(tiny: Project, out: tuple[str, ...]) -> None:
    keep = 'out=$(sed -n "s/^output_dir = .\\(.*\\).$/\\1/p" "$1"); mkdir -p "$out/checkpoints/step_7"'
    text = f'{keep}; : >"$out/checkpoints/step_7/weights"; cat "$1"; [[ -e mended ]]'
    orchestrator = ["bash", "-c", 'cat "$1"', "-", "{config}"]
    trainer = ["bash", "-c", text, "-", "{config}"]
    tiny.write("b.toml", f"[commands]\ntrainer = {json.dumps(trainer)}\norchestrator = {json.dumps(orchestrator)}\n")
    # What somebody else has left there is not this run's.
    tiny.write("o/checkpoints/step_9/weights", "w")
    words = ("rl", "@", "a.toml", "@", "b.toml", "--ckpt.interval", "7", *out, "--wait")
    assert tiny.gangrun(*words).code == 1
    first = tiny.run()
    folder = tiny.dir / "o" if out else Path(first["dir"])
    assert "interval = 7" in (folder / "slurm/latest_train_node_rank_0.log").read_text()
    assert "resume_step" not in (folder / "slurm/latest_train_node_rank_0.log").read_text()
    tiny.write("mended", "")
    tiny.ok("resume", "latest", "--wait")
    run = tiny.run()
    assert (run["run"], run["attempt"], run["state"]) == (first["run"], 2, "COMPLETED")
    for name, replica in (("train_node_rank_0", "trainer.0"), ("orchestrator", "orchestrator.0")):
        link = folder / f"slurm/latest_{name}.log"
        assert link.resolve() == Path(run["dir"]).resolve() / f"attempts/002/logs/{replica}.log"
        assert "[ckpt]\ninterval = 7\nresume_step = -1\n" in link.read_text()
    assert "resume_step" not in (Path(run["dir"]) / "attempts/001/logs/trainer.0.log").read_text()


def test_a_run_whose_output_directory_has_gone_to_another_is_not_resumed(tiny: Project, said: Said) -> None:
    keep = 'mkdir -p o/checkpoints/step_7; : >o/checkpoints/step_7/weights; echo "reads $1"; false'
    tiny.write("b.toml", f"[commands]\ntrainer = {json.dumps(['bash', '-c', keep, '-', '{config}'])}\n")
    words = ("rl", "@", "a.toml", "@", "b.toml", "--output-dir", "o", "--wait")
    assert tiny.gangrun(*words).code == 1
    first = tiny.run()["run"]
    assert tiny.gangrun(*words, "--resume").code == 1
    second = tiny.run()
    refused = said("resume", first)
    assert refused.code == 2
    assert (
        f"{tiny.dir}/o: {first} cannot be resumed: its output directory is that of {second['run']} now" in refused.err
    )
    assert tiny.gangrun("resume", second["run"], "--wait").code == 1
    log = (tiny.dir / "o/slurm/latest_train_node_rank_0.log").read_text()
    assert log == f"reads {second['dir']}/configs/resumed/trainer.toml\n"


def test_without_a_checkpoint_there_is_nothing_to_resume(tiny: Project, said: Said) -> None:
    assert tiny.gangrun("rl", "@", "a.toml", "--commands.trainer", '["false"]', "--wait").code == 1
    refused = said("resume", "latest")
    assert (refused.code, "cannot be resumed: it has left no checkpoint" in refused.err) == (2, True)
    again = refused.err.partition("way out: gangrun ")[2].partition(" begins anew")[0].split()
    assert tiny.gangrun(*again, "--wait").code == 1
    assert len(tiny.runs()) == 2


BAD: dict[str, tuple[tuple[str, ...], str]] = {
    "resume and clean": (("--resume", "--clean", "--output-dir", "o"), "leave one of them out"),
    "clean of nothing": (("--clean",), "--clean is about an output_dir, and none is named"),
    "resume of nothing": (("--resume", "--output-dir", "o"), "there is no run to resume"),
    "another's directory": (("--output-dir", "theirs"), "holds rl.sh, which gangrun has not made"),
    "not a directory": (("--output-dir", "a.toml/o"), "the output directory cannot be written"),
    "a dry run that deletes": (("--dry-run", "--clean", "--output-dir", "o"), "a dry run must not"),
    "a project to clean": (("--clean", "--output-dir", "."), "--clean would delete"),
    "a sweep": (("--gangrun.sweep.lr", "[1, 2]"), "--gangrun.sweep.lr: gangrun.sweep.lr: is about many items"),
    "a step without a run": (("--gangrun.needs", "000_data_0"), "needs project/000_data_0, which has no run yet"),
    "flags for sbatch": (("--", "--qos=x"), "no sbatch to take flags"),
}


@pytest.mark.parametrize("case", BAD)
def test_refused_with_nothing_written(case: str, tiny: Project, said: Said) -> None:
    words, complaint = BAD[case]
    tiny.write("theirs/rl.sh", "")
    done = said("rl", "@", "a.toml", *words)
    assert (done.code, complaint in done.err) == (2, True), done.err
    assert tiny.runs() == []
    assert (tiny.dir / "a.toml").exists()


def test_a_dry_run_writes_everything_and_sends_nothing(tiny: Project) -> None:
    done = tiny.ok("rl", "@", "a.toml", "--output-dir", "o", "--dry-run")
    run = tiny.run()
    assert run["state"] == "CREATED"
    assert (tiny.dir / "o/rl.sh").is_file()
    assert (tiny.dir / "o/configs/inference.toml").is_file()
    command = done.out.splitlines()[-1]
    assert command == f"bash {run['dir']}/script.sh"
    ended = tiny.spawn("bash", "-c", command).done()
    assert ended.code == 0, ended.err
    assert "trains" in (tiny.dir / "o/slurm/latest_train_node_rank_0.log").read_text()
    # What was only written holds no directory.
    tiny.ok("rl", "@", "a.toml", "--output-dir", "p", "--dry-run")
    tiny.ok("rl", "@", "a.toml", "--output-dir", "p", "--wait")


def test_a_live_run_keeps_its_directory(tiny: Project, said: Said) -> None:
    tiny.write("b.toml", 'commands.trainer = ["sleep", "1000"]\n')
    tiny.ok("rl", "@", "a.toml", "@", "b.toml", "--output-dir", "o")
    for flag in ("--clean", "--resume"):
        refused = said("rl", "@", "a.toml", "--output-dir", "o", flag)
        assert (refused.code, "the output directory is in use by" in refused.err) == (2, True), refused.err
    run = tiny.run()
    tiny.ok("cancel", run["run"])
    assert wait_for(lambda: not marked(f"GANGRUN_RUN_DIR={run['dir']}"))


@pytest.fixture
def tmux(project: Project, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """`tmux(WORDS…)` with a server of its own, ended with the test."""
    if not shutil.which("tmux"):
        pytest.skip("there is no tmux")
    folder = tmp_path / "t"
    folder.mkdir()
    project.env["TMUX_TMPDIR"] = str(folder)

    def call(*words: str) -> str:
        environment = project.environment()
        done = subprocess.run(["tmux", *words], env=environment, capture_output=True, text=True, check=True)
        return done.stdout

    yield call
    subprocess.run(["tmux", "kill-server"], env=project.environment(), check=False, capture_output=True)


def test_tmux_shows_every_role(tiny: Project, tmux: Callable[..., str], said: Said) -> None:
    tiny.write(
        "b.toml", 'commands.trainer = ["bash", "-c", "for ((i = 0; ; i++)); do echo line $i; sleep 0.2; done"]\n'
    )
    tiny.ok("rl", "@", "a.toml", "@", "b.toml")
    run = tiny.run()
    session = f"slurm-{run['run']}"
    assert f"session {session};" in tiny.ok("tmux", run["run"]).out
    assert tmux("list-windows", "-t", session, "-F", "#{window_name}").split() == ["Terminal", "Logs"]
    panes = tmux("list-panes", "-t", f"{session}:Logs", "-F", "#{pane_title}").split()
    assert panes == ["Trainer", "Orchestrator", "Inference"]

    def shown(pane: int) -> str:
        return tmux("capture-pane", "-p", "-t", f"{session}:Logs.{pane}")

    wait_for(lambda: "line 3" in shown(0))
    wait_for(lambda: "token <>" in shown(1))
    assert "line 3" not in shown(1)
    tiny.ok("tmux")
    assert len(tmux("list-sessions").splitlines()) == 1, "called again, it finds the session that is there"
    tiny.ok("cancel", run["run"])
    wait_for(lambda: not marked(f"GANGRUN_RUN_DIR={run['dir']}"))
    tiny.write("experiments/a/one.toml", 'command = ["echo", "one"]\n')
    tiny.ok("run", "experiments/a/one.toml")
    tiny.ok("tmux")
    assert tmux("list-panes", "-t", f"slurm-{tiny.run()['run']}:Logs", "-F", "#{pane_title}").split() == ["Main"]
    assert said("tmux", "latest", PATH=os.fspath(tiny.dir)).err.startswith("gangrun: there is no tmux")
