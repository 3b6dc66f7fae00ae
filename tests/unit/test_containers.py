"""What a command becomes in each container runtime, and which containers are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gangrun import clusters
from gangrun.errors import SpecError
from gangrun.plan.model import Plan, Replica
from gangrun.script.quote import shown
from gangrun.spec.load import load
from gangrun.spec.model import Profile
from gangrun.spec.profile import Cluster
from gangrun.sweeps import plan_of

Resolved = Callable[..., Plan]
Refused = Callable[..., list[str]]


def only(plan: Plan) -> Replica:
    (replica,) = plan.replicas
    return replica


def argv(replica: Replica) -> list[str]:
    return [shown(word) for word in replica.argv]


def experiment(container: str, gpus: int = 0, before: str = "") -> str:
    return f"command = ['x', '--y']\n{before}[allocation]\nnodes = 1\ngpus = {gpus}\n[container]\n{container}\n"


EVERYTHING = """
mounts = ["/data:/inside", "/code"]
workdir = "/work"
writable = true
remap_root = true
mount_home = true
env = { PATH = "/opt/bin:/bin", N = 1 }
"""


def test_charliecloud(resolved: Resolved, tmp_path: Path) -> None:
    replica = only(resolved(experiment("runtime = 'charliecloud'\nimage = '/i m'\n" + EVERYTHING)))
    here = f"--bind={tmp_path}:{tmp_path}"
    assert argv(replica) == [
        "ch-run", *([] if str(tmp_path).startswith("/tmp/") else [here]), "--bind=/data:/inside", "--bind=/code:/code",
        "--cd=/work", "--write", "--uid=0", "--gid=0", "--home", "/i m", "--",
        "env", "PATH=/opt/bin:/bin", "N=1", "x", "--y",
    ]  # fmt: skip
    assert replica.parts == ("ch-run", "/i m", str(tmp_path), "/data", "/code")
    assert replica.step_flags == ()


def test_apptainer(resolved: Resolved, tmp_path: Path) -> None:
    text = experiment("runtime = 'apptainer'\nimage = '/i.sif'\n" + EVERYTHING, gpus=2)
    replica = only(resolved(text.replace('"/code"', '"/code:/code:ro"')))
    assert argv(replica) == [
        "apptainer", "exec", "--nv", f"--bind={tmp_path}:{tmp_path}", "--bind=/data:/inside", "--bind=/code:/code:ro",
        "--pwd=/work", "--writable-tmpfs", "--fakeroot", f"--home={Path.home()}", "/i.sif",
        "env", "PATH=/opt/bin:/bin", "N=1", "x", "--y",
    ]  # fmt: skip
    plain = argv(only(resolved(experiment("runtime = 'apptainer'\nimage = 'docker://i'\nmount_home = false"))))
    assert plain == [
        *("apptainer", "exec", f"--bind={tmp_path}:{tmp_path}", f"--pwd={tmp_path}", "--no-home", "docker://i"),
        *("x", "--y"),
    ]


def test_podman(resolved: Resolved, tmp_path: Path) -> None:
    ours = [
        "podman", "run", "--rm", "--env-host", "--network=host", "--ipc=host", "--pid=host", "--ulimit=host",
        "--security-opt=label=disable",
    ]  # fmt: skip
    replica = only(resolved(experiment("runtime = 'podman'\nimage = 'docker.io/i:1'\n" + EVERYTHING, gpus=2)))
    assert argv(replica) == [
        *ours, "--device=nvidia.com/gpu=all", f"--volume={tmp_path}:{tmp_path}", "--volume=/data:/inside",
        "--volume=/code:/code", f"--volume={Path.home()}:{Path.home()}", "--workdir=/work", "docker.io/i:1",
        "env", "PATH=/opt/bin:/bin", "N=1", "x", "--y",
    ]  # fmt: skip
    assert replica.parts == ("podman", str(tmp_path), "/data", "/code")
    no = "runtime = 'podman'\nimage = 'i'\nwritable = false\nremap_root = false\nmount_home = false"
    mounted = [f"--volume={tmp_path}:{tmp_path}", f"--workdir={tmp_path}"]
    assert argv(only(resolved(experiment(no)))) == [
        *(*ours, *mounted, "--read-only", "--userns=keep-id", "i", "x", "--y")
    ]


def test_pyxis_gives_flags_to_the_step_and_leaves_the_command(resolved: Resolved, tmp_path: Path) -> None:
    text = experiment("runtime = 'pyxis'\nimage = 'nvcr.io#nvidia/pytorch:23.10-py3'\n" + EVERYTHING)
    replica = only(resolved(text.replace('"/code"', '"/code:/code:ro"')))
    assert argv(replica) == ["env", "PATH=/opt/bin:/bin", "N=1", "x", "--y"]
    # The flags as args.c of pyxis registers them.
    assert [shown(flag) for flag in replica.step_flags] == [
        "--container-image=nvcr.io#nvidia/pytorch:23.10-py3",
        f"--container-mounts={tmp_path}:{tmp_path},/data:/inside,/code:/code:ro",
        "--container-workdir=/work",
        "--container-writable",
        "--container-mount-home",
        "--container-remap-root",
    ]
    no = "runtime = 'pyxis'\nimage = './i.sqsh'\nwritable = false\nremap_root = false\nmount_home = false"
    replica = only(resolved(experiment(no)))
    assert [shown(flag) for flag in replica.step_flags] == [
        f"--container-image={tmp_path}/exp/i.sqsh",
        f"--container-mounts={tmp_path}:{tmp_path}",
        f"--container-workdir={tmp_path}",
        "--container-readonly",
        "--no-container-mount-home",
        "--no-container-remap-root",
    ]
    said = only(resolved(experiment("runtime = 'pyxis'\nimage = 'i'"))).step_flags
    assert len(said) == 3, "what is not said is left to the site"


def test_environment_of_every_level_is_said_inside(resolved: Resolved) -> None:
    text = """
    [allocation]
    nodes = 1
    [env]
    A = "experiment"
    B = "experiment"
    C = "experiment {run.dir}"
    [roles.a]
    command = ["x"]
    env = { B = "role {index}", D = "role" }
    container = { runtime = "apptainer", image = "/i", env = { D = "container {self.host}" } }
    """
    replica = only(resolved(text, profile={"env": {"A": "site", "E": "site"}}))
    inside = argv(replica)[argv(replica).index("/i") + 1 :]
    assert inside == [
        *("env", "A=experiment", "E=site", "B=role 0", "C=experiment ${RUN_DIR}", "D=container ${HOSTS[0]}", "x"),
    ]
    assert replica.env == ()


def test_the_nearest_container_is_taken(resolved: Resolved) -> None:
    profile = {"container": {"runtime": "pyxis", "image": "site"}}
    text = "[allocation]\nnodes = 1\n[roles.a]\ncommand = ['x']\ngpus = 0\n[roles.b]\ncommand = ['x']\ngpus = 0\n"
    text += "[roles.b.container]\nruntime = 'pyxis'\nimage = 'b'\n"

    def images(plan: Plan) -> dict[str, str]:
        return {one.role: shown(one.step_flags[0]).removeprefix("--container-image=") for one in plan.replicas}

    assert images(resolved(text, profile=profile)) == {"a": "site", "b": "b"}
    everyone = "[container]\nruntime = 'pyxis'\nimage = 'all'\n" + text
    assert images(resolved(everyone, profile=profile)) == {"a": "all", "b": "b"}


def test_paths_are_relative_to_the_file_that_says_them(
    write: Callable[..., Path], resolved: Resolved, tmp_path: Path
) -> None:
    write(
        "[container]\nruntime = 'charliecloud'\nimage = './i.sqsh'\nmounts = ['../data:/data', '~/x:/x']\n", "base.toml"
    )
    text = "extends = '../../base.toml'\ncommand = ['x']\n"
    words = argv(only(resolved(text, name="deep/er/step.toml")))
    assert f"{tmp_path}/i.sqsh" in words
    assert f"--bind={tmp_path.parent}/data:/data" in words
    assert f"--bind={Path.home()}/x:/x" in words
    words = argv(only(resolved(text, "container.image=./other", name="deep/er/step.toml")))
    assert f"{tmp_path}/other" in words


@pytest.mark.parametrize(
    ("container", "told"),
    [
        ("runtime = 'docker', image = 'x'", "container.runtime: no container runtime is named 'docker'"),
        ("runtime = 'pixis', image = 'x'", "did you mean 'pyxis'?"),
        ("runtime = 'charliecloud', image = 'x', mount = []", "container: charliecloud has no key 'mount'"),
        ("runtime = 'charliecloud', image = ''", "container.image: '' names no image"),
        ("runtime = 'charliecloud', image = '--help'", "container.image: '--help' names no image"),
        ("runtime = 'charliecloud', image = 'x', mounts = ['a']", "container.mounts[0]: 'a' is no mount"),
        ("runtime = 'charliecloud', image = 'x', mounts = ['/a:b']", "container.mounts[0]: '/a:b' is no mount"),
        ("runtime = 'pyxis', image = 'x', mounts = ['/a:/b:rw,z']", "'/a:/b:rw,z' is no mount"),
        ("runtime = 'charliecloud', image = 'x', mounts = ['/a:/b:ro']", "leave :ro out of /a:/b:ro"),
        ("runtime = 'pyxis', image = 'x', mounts = ['/a,b:/b']", "it reads ',' as a separator"),
        ("runtime = 'apptainer', image = 'x', mounts = ['/a,b:/b']", "it reads ',' as a separator"),
        ("runtime = 'podman', image = '/x.tar'", "podman starts images by name, not the file /x.tar"),
        ("runtime = 'pyxis', image = 'x', workdir = 'here'", "container.workdir: 'here' is no directory inside"),
        ("runtime = 'pyxis', image = 'x', env = { RANK = '{nobody.host}' }", "unknown reference {nobody.host}"),
        ("runtime = 'pyxis', image = 'x', writable = 'yes'", "container.writable: "),
    ],
)
def test_what_a_container_refuses(container: str, told: str, refused: Refused) -> None:
    text = f"container = {{ {container} }}\n[roles.a]\ncommand = ['x']\n[roles.b]\ncommand = ['x']\nbeside = 'a'\n"
    (problem,) = refused(text)
    assert problem.startswith("exp/step.toml:1: container")
    assert told in problem


def test_pyxis_without_slurm(refused: Refused) -> None:
    (problem,) = refused(experiment("runtime = 'pyxis'\nimage = 'x'"), profile={"scheduler": "local"})
    assert "container.runtime: pyxis is a plugin of Slurm's srun" in problem


def test_squashed_images_of_charliecloud_come_with_a_word_of_warning(resolved: Resolved) -> None:
    assert "SquashFS" in resolved(experiment("runtime = 'charliecloud'\nimage = '/i.sqsh'")).notes[0]
    assert not resolved(experiment("runtime = 'charliecloud'\nimage = '/i'")).notes


# ---- what is looked at before anything is written


HERE = {"scheduler": "local"}


def cluster(profile: dict[str, str] | None = None) -> Cluster:
    return Cluster("site", Profile.model_validate(profile or {}))


Lacking = Callable[..., list[str]]


@pytest.fixture
def lacking(write: Callable[..., Path]) -> Lacking:
    """`lacking(text, profile)` is the words of every problem with what the containers of this file are made of."""

    def words(text: str, profile: dict[str, str] | None = None) -> list[str]:
        loaded = load(write(text))
        try:
            clusters.require_parts(loaded, plan_of(loaded, cluster(profile)), cluster(profile))
        except SpecError as error:
            return [str(problem) for problem in error.problems]
        return []

    return words


def test_parts_that_are_missing_for_sure(lacking: Lacking, write: Callable[..., Path], tmp_path: Path) -> None:
    write("", "exp/image")
    where = f"no such file or directory, and the container of main needs it ({MENDED})"
    text = experiment("runtime = 'pyxis'\nimage = './no.sqsh'\nmounts = ['/:/x', './nothing:/data']")
    assert lacking(text) == [
        f"exp/step.toml:7: container.image: {tmp_path}/exp/no.sqsh: {where}",
        f"exp/step.toml:8: container.mounts[1]: {tmp_path}/exp/nothing: {where}",
    ]
    assert lacking(text.replace("no.sqsh", "image").replace("nothing", "")) == []


MENDED = "put it there, or say where it is"


def test_a_working_directory_that_is_none(lacking: Lacking, write: Callable[..., Path], tmp_path: Path) -> None:
    write("", "exp/work/file")
    mend = "and commands are to start there (make it, or name one that is there)"
    none = f"exp/step.toml:1: workdir: there is no directory {tmp_path}/exp/none/at/all, {mend}"
    assert lacking("workdir = 'none/at/all'\ncommand = ['x']\n") == [none]
    assert "there is no directory /no/such/place" in lacking("workdir = '/no/such/place'\ncommand = ['x']\n", HERE)[0]
    assert "exp/work/file, and commands" in lacking("workdir = 'work/file'\ncommand = ['x']\n")[0]


def test_a_working_directory_that_may_be_there_in_time(lacking: Lacking) -> None:
    assert lacking("workdir = '/scratch0/ada'\ncommand = ['x']\n") == []
    assert lacking("workdir = 'made'\ncommand = ['x']\nneeds = '000_prepare'\n", HERE) == []


def test_parts_that_only_some_items_name(lacking: Lacking, tmp_path: Path) -> None:
    text = experiment("runtime = 'pyxis'\nimage = '/'") + f"[sweep]\ncontainer.image = ['/', '{tmp_path}/no']\n"
    what = f"{tmp_path}/no: no such file or directory, and the container of main needs it ({MENDED})"
    assert lacking(text) == [f"exp/step.toml:9: sweep.container.image: {what}"]


def test_parts_that_only_the_nodes_may_have(lacking: Lacking) -> None:
    text = experiment("runtime = 'charliecloud'\nimage = '/local/images/x'\nmounts = ['/scratch0:/data']")
    assert lacking(text) == []
    assert "container.image: /local/images/x" in "\n".join(lacking(text, HERE))


def test_a_runtime_that_this_machine_does_not_have(lacking: Lacking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    text = experiment("runtime = 'apptainer'\nimage = 'docker://x'")
    what = "apptainer: no such program on PATH, and the container of main needs it"
    way_out = "install it, choose another runtime, or --cluster for a machine that has it"
    assert lacking(text, HERE) == [f"exp/step.toml:6: container.runtime: {what} ({way_out})"]
    assert lacking(text) == []
    module = "setup = ['module load apptainer']\n"
    assert lacking(experiment("runtime = 'apptainer'\nimage = 'docker://x'", before=module), HERE) == []


def test_a_srun_without_the_plugin(resolved: Resolved, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    srun = tmp_path / "srun"
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    plan = resolved(experiment("runtime = 'pyxis'\nimage = 'x'"))
    srun.write_text("#!/bin/sh\necho '  --container-image= --container-mounts= --container-workdir='\n")
    srun.chmod(0o755)
    assert clusters.doubts_about_containers([plan], cluster()) == ""
    srun.write_text("#!/bin/sh\necho usage\n")
    assert "does not know --container-image" in clusters.doubts_about_containers([plan], cluster())
