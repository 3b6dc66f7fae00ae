"""Programs in real containers on the hosts of a real Slurm: charliecloud, with an image that these tests build."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from gangrun.lab import Lab
from tests.gangrun_cli import REPOSITORY, Project, Started, marked, sh, wait_for
from tests.image import Image, built

pytestmark = pytest.mark.slurm
FAKES = REPOSITORY / "tests" / "fakes"


@pytest.fixture(scope="module")
def image() -> Image:
    return built()


def container(image: Image, mounts: list[str], more: str = "") -> str:
    """The table as TOML."""
    return f'[container]\nruntime = "charliecloud"\nimage = "{image.path}"\nmounts = {json.dumps(mounts)}\n{more}\n'


def inside(shown: dict[str, object]) -> list[str]:
    """Processes of the run whose root is the image."""
    found = []
    for line in left(shown):
        pid, _, command = line.partition(": ")
        if Path(f"/proc/{pid}/root/etc/image").exists():
            found.append(command)
    return found


def left(shown: dict[str, object]) -> list[str]:
    """Processes of the run anywhere."""
    return marked(f"GANGRUN_RUN_DIR={shown['dir']}")


@pytest.mark.torch
def test_training_over_two_hosts_in_an_image(project: Project, image: Image) -> None:
    file = project.example("ddp")
    text = (project.dir / file).read_text()
    (project.dir / file).write_text(text + container(image, image.python()))
    waiting = project.start("submit", file, "--wait")
    running = wait_for(lambda: project.runs() and project.run(), 60)
    ranks = wait_for(lambda: [line for line in inside(running) if "train.py" in line and "torchrun" not in line], 25)
    assert ranks
    done = waiting.done(200)
    assert done.code == 0, done.out + done.err
    hosts = project.run()["hosts"]
    seen = dict(re.findall(r"rank (\d) of 4 on (node\d)", done.out))
    assert [seen[str(rank)] for rank in range(4)] == [hosts[0], hosts[0], hosts[1], hosts[1]]
    assert "all 4 ranks hold the same weights" in done.out
    assert (Path(str(running["dir"])) / "checkpoints" / "epoch_0006.pt").is_file(), "written through the mount"
    assert wait_for(lambda: not left(running))


RANKS = """
[env]
A = "experiment's"
B = "experiment's"
[allocation]
nodes = 2
gpus = 4
cpus = 4
[roles.main]
launcher = "srun"
tasks = 2
command = ["bash", "-c", '''
where="of $MASTER_ADDR at $LOCAL_RANK on $SLURMD_NODENAME in $(cat /etc/image)"
echo "$RANK/$WORLD_SIZE $where, gpus $CUDA_VISIBLE_DEVICES, $A $B, $PWD"
echo here > {run.dir}/rank.$RANK
# Rank 3 ends the job when everybody has spoken.
while [ "$RANK" = 3 ]; do
  [ "$(ls {run.dir} | grep -c "^rank[.]\\|^watched[.]")" != 6 ] || exit 7
  sleep 0.1
done
sleep 60''']
[roles.watch]
kind = "sidecar"
command = ["bash", "-c", '''
echo $SLURMD_NODENAME sees $(cat /srv/file) and gpus=$CUDA_VISIBLE_DEVICES.
echo here > {run.dir}/watched.$SLURMD_NODENAME
sleep 60''']
"""


def test_ranks_in_an_image(project: Project, image: Image) -> None:
    project.write("data/file", "the data\n")
    text = RANKS + container(image, ["../../data:/srv"], 'env = { B = "container\'s {index}" }')
    project.write("experiments/ranks/run.toml", text)
    done = project.gangrun("submit", "experiments/ranks/run.toml", "--wait")
    shown = project.run()
    assert done.code == 7, done.out + done.err
    assert (shown["state"], shown["failed"]["rank"]) == ("FAILED", 3)
    first, second = shown["hosts"]
    expected = {
        f"{rank}/4 of {first} at {rank % 2} on {(first, second)[rank // 2]} in a gangrun test image, gpus 0,1,2,3, "
        f"experiment's container's 0, {project.dir}"
        for rank in range(4)
    }
    assert expected <= {line.partition(" | ")[2] for line in done.out.splitlines()}
    assert {f"{host} sees the data and gpus=." for host in (first, second)} <= {
        line.partition(" | ")[2] for line in done.out.splitlines()
    }
    assert sorted(path.name for path in Path(shown["dir"]).glob("rank.*")) == [f"rank.{rank}" for rank in range(4)]
    assert wait_for(lambda: not left(shown))


def test_a_program_in_an_image_ends_gently(project: Project, image: Image, lab: Lab) -> None:
    saving = "trap 'sleep 1; cp /etc/image {run.dir}/saved; exit 0' TERM; echo up; while :; do sleep 0.1; done"
    project.write("experiments/gentle/run.toml", sh(saving) + container(image, []))
    project.ok("submit", "experiments/gentle/run.toml")
    wait_for(lambda: "up" in project.gangrun("logs", "latest").out)
    shown = project.run()
    assert inside(shown)
    project.ok("cancel", "latest")
    assert wait_for(lambda: not left(shown))
    assert (Path(shown["dir"]) / "saved").is_file()
    assert wait_for(lambda: project.run()["state"] == "CANCELLED")


def of_the_cluster(project: Project, image: Image) -> None:
    """Has every role that names no container run in this one, as a site may want it."""
    profile = project.dir / "clusters" / "mine.toml"
    profile.write_text(profile.read_text() + container(image, image.python()))


def followed(project: Project, waiting: Started, replicas: set[str]) -> dict[str, Any]:
    """Sees each of these replicas inside the image, and then the run's good end."""
    running = wait_for(lambda: project.runs() and project.run(), 60)
    seen: set[str] = set()

    def look() -> bool:
        for line in left(running):
            pid = line.partition(":")[0]
            try:
                words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                there = Path(f"/proc/{pid}/root/etc/image").exists()
            except OSError:
                continue
            seen.update(word[16:].decode() for word in words if there and word.startswith(b"GANGRUN_REPLICA="))
        return seen >= replicas

    wait_for(look, 120, every=0.5)
    done = waiting.done(240)
    assert done.code == 0, done.out + done.err
    assert wait_for(lambda: not left(running), 60)
    return running


@pytest.mark.torch
def test_replica_groups_in_an_image(project: Project, image: Image) -> None:
    of_the_cluster(project, image)
    file = project.example("diloco")
    words = (
        'command=["train.py", "--steps", "4", "--sync-every", "2", "--batch", "4", "--out", "{run.dir}/checkpoints"]'
    )
    waiting = project.start("submit", file, "--set", words, "--set", "replicas=2", "--wait")
    followed(project, waiting, {"lighthouse.0", "main.0", "main.1"})


@pytest.mark.torch
def test_the_roles_of_reinforcement_learning_in_an_image(project: Project, image: Image) -> None:
    of_the_cluster(project, image)
    project.example("rl")
    words = ("--max-steps", "3", "--orchestrator.batch-size", "32", "--output-dir", "outputs/image")
    waiting = project.start("rl", "@", "examples/rl/rl.toml", *words, "--wait")
    followed(project, waiting, {"inference.0", "orchestrator.0", "trainer.0"})


def test_the_items_of_a_pool_in_an_image(project: Project, image: Image) -> None:
    of_the_cluster(project, image)
    text = sh("echo {number} in $(cat /etc/image) on $SLURMD_NODENAME") + "[allocation]\nnodes = 2\ncpus = 2\n"
    project.write("experiments/items/run.toml", text + "[sweep]\nnumber = [1, 2, 3]\n[pool]\ncpus = 1\n")
    done = project.gangrun("submit", "experiments/items/run.toml", "--wait")
    assert done.code == 0, done.out + done.err
    run = Path(project.run()["dir"])
    said = "".join(log.read_text() for log in run.glob("items/*/attempts/0*/logs/main.0.log"))
    assert sorted(re.findall(r"(\d) in a gangrun test image on node\d", said)) == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("change", "lacks"),
    [
        ("image = '/nowhere/image'", "/nowhere/image"),
        ("mounts = ['/nowhere/data:/srv']", "/nowhere/data"),
        ("runtime = 'apptainer'", "apptainer"),
    ],
)
def test_what_a_node_lacks(project: Project, image: Image, change: str, lacks: str) -> None:
    text = sh("true") + container(image, [])
    name = change.partition(" ")[0]
    text = re.sub(rf"(?m)^{name} = .*$", change, text)
    project.write("experiments/lacks/run.toml", text)
    done = project.gangrun("submit", "experiments/lacks/run.toml", "--wait")
    assert done.code == 125, done.out + done.err
    assert re.search(rf"main\.0 \| gangrun: node\d has no {lacks}, which the container needs", done.out)
    assert "exit code 125: its container could not be started" in project.ok("why").out


def test_what_is_missing_for_sure_is_told_before_anything_is_written(project: Project) -> None:
    project.write("experiments/lacks/run.toml", sh("true") + "[container]\nruntime = 'pyxis'\nimage = './typo.sqsh'\n")
    for command in ("check", "submit"):
        done = project.gangrun(command, "experiments/lacks/run.toml")
        assert done.code == 2
        assert f"{project.dir}/experiments/lacks/typo.sqsh: no such file or directory" in done.err
    assert not (project.dir / "outputs").exists()


def test_pyxis_whose_steps_begin_inside(project: Project, image: Image, tmp_path: Path) -> None:
    """The script's own wrapper then runs in the image: its files, signals and exit codes must come out of there."""
    project.env.update(PATH=f"{FAKES / 'pyxis'}:{project.environment()['PATH']}", PYXIS_CALLS=str(tmp_path / "calls"))
    project.write("data/file", "the data\n")
    text = RANKS + container(image, ["../../data:/srv:ro"], "remap_root = false\nwritable = true")
    project.write("experiments/ranks/run.toml", text.replace('"charliecloud"', '"pyxis"'))
    done = project.gangrun("submit", "experiments/ranks/run.toml", "--wait")
    shown = project.run()
    assert done.code == 7, done.out + done.err
    assert (shown["state"], shown["failed"]["rank"], shown["replicas"]["main.0"]["exit"]) == ("FAILED", 3, 7)
    assert set(shown["replicas"]["main.0"]["beats"]) == {"0", "1"}
    first, second = shown["hosts"]
    assert len(re.findall(rf"\d/4 of {first} at \d on (?:{first}|{second}) in a gangrun test image", done.out)) == 4
    assert f"{second} sees the data and gpus=." in [line.partition(" | ")[2] for line in done.out.splitlines()]
    calls = [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]
    assert calls[0] == {
        "--container-image": str(image.path),
        "--container-mounts": f"{project.dir}:{project.dir},{project.dir}/data:/srv:ro",
        "--container-workdir": str(project.dir),
        "--container-writable": "",
        "--no-container-remap-root": "",
    }
    assert wait_for(lambda: not left(shown))


def test_pyxis_that_srun_does_not_know(project: Project, image: Image) -> None:
    text = sh("true") + container(image, []).replace('"charliecloud"', '"pyxis"')
    project.write("experiments/lacks/run.toml", text)
    done = project.gangrun("submit", "experiments/lacks/run.toml", "--wait")
    assert done.code != 0
    assert "srun on this machine does not know --container-image" in done.err
    assert "srun: unrecognized option '--container-image=" in done.out
