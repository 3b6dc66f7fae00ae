"""`gangrun exec` and `gangrun shell` beside jobs of a real Slurm, in containers, and `gangrun run` on a terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from gangrun.lab import Lab
from tests.gangrun_cli import REPOSITORY, Project, marked, sh, wait_for
from tests.image import built
from tests.slurm.test_containers import container

pytestmark = pytest.mark.slurm
FILE = "experiments/long/run.toml"
WHERE = 'echo "$SLURMD_NODENAME of job $SLURM_JOB_ID as $GANGRUN_REPLICA in $PWD, gpus $CUDA_VISIBLE_DEVICES, $A"'


def test_a_command_runs_on_the_node_of_its_replica(project: Project, lab: Lab) -> None:
    project.write(
        FILE,
        f"""
[allocation]
nodes = 2
gpus = 4
[env]
A = "two words"
[roles.train]
gpus = 4
{sh("cd /usr && exec sleep 600")}
[roles.serve]
kind = "service"
replicas = 2
gpus = 2
{sh("exec sleep 600")}
""",
    )
    project.ok("submit", FILE)
    run = wait_for(lambda: len(project.run().get("replicas", {})) == 3 and project.run(), 60)

    def where(role: str) -> str:
        return project.gangrun("exec", "--role", role, "--", "bash", "-c", WHERE).out

    first, second = run["hosts"]
    told = wait_for(lambda: where("train"))
    assert told == f"{first} of job {run['job']} as train.0 in /usr, gpus 0,1,2,3, two words\n"
    told = wait_for(lambda: where("serve.1"))
    assert told == f"{second} of job {run['job']} as serve.1 in {project.dir}, gpus 2,3, two words\n"
    done = project.gangrun("exec", "--role", "train", "--", "sh", "-c", "nvidia-smi -L; exit 7")
    assert (done.code, done.out.count("GPU 0")) == (7, 1)

    terminal = project.terminal("gangrun", "shell", "--role", "serve.1")
    terminal.type(f"tty; {WHERE}\n")
    assert "/dev/pts/" in terminal.see(f"{second} of job {run['job']} as serve.1")
    terminal.type("exit 9\n")
    assert terminal.done() == 9
    assert project.run()["state"] == "RUNNING", "what runs beside a job does not end it"
    project.ok("cancel", "latest")
    wait_for(lambda: not marked(f"GANGRUN_RUN_DIR={run['dir']}"), 60)
    wait_for(lambda: "has ended" in project.gangrun("exec", "--", "true").err, 60)


@pytest.mark.parametrize("runtime", ["charliecloud", "pyxis"])
def test_a_command_runs_in_the_container_of_its_replica(project: Project, tmp_path: Path, runtime: str) -> None:
    image = built()
    fakes = REPOSITORY / "tests" / "fakes" / "pyxis"
    project.env.update(PATH=f"{fakes}:{project.environment()['PATH']}", PYXIS_CALLS=str(tmp_path / "calls"))
    text = sh("sleep 600") + container(image, image.mounts(project.dir), 'env = { A = "inside" }')
    project.write(FILE, text.replace('"charliecloud"', f'"{runtime}"'))
    project.ok("submit", FILE)
    words = ("exec", "--", "bash", "-c", 'cat /etc/image; echo "$A $GANGRUN_REPLICA in $PWD"; exit 5')
    done = wait_for(lambda: (one := project.gangrun(*words)).code == 5 and one, 60, 3)
    assert done.out == f"a gangrun test image\ninside main.0 in {project.dir}\n"
    run = project.run()
    project.ok("cancel", "latest")
    wait_for(lambda: not marked(f"GANGRUN_RUN_DIR={run['dir']}"), 60)


def test_run_on_the_terminal_of_an_interactive_step(project: Project, lab: Lab) -> None:
    """`srun --pty bash` on a node, and `gangrun run` typed there: on one node, as the step holds no more."""
    project.write(FILE, sh('echo "here is $SLURM_JOB_ID"; until [[ -e go ]]; do sleep 0.1; done') + "[allocation]\n")
    shell = ["srun", "-N1", "-c2", "--mem=1G", "--pty", "bash", "--norc"]
    terminal = project.terminal(*shell)
    terminal.type(f"gangrun run {FILE}; echo code=$?\n")
    shown = terminal.see("here is ")
    wait_for(lambda: project.run()["state"] == "RUNNING")
    assert project.ok("exec", "--", "printenv", "GANGRUN_REPLICA").out == "main.0\n"
    terminal.type("\x03")  # Ctrl-C
    shown = terminal.see("code=130")
    assert "gangrun: stopping, Ctrl-C again kills" in shown
    terminal.type("exit\n")
    assert terminal.done() == 0
    run = project.run()
    assert (run["state"], run["exit_code"]) == ("CANCELLED", 130)
    wait_for(lambda: not marked(f"GANGRUN_RUN_DIR={run['dir']}"))
