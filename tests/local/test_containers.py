"""podman, as it really runs here, on a machine without a scheduler."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gangrun_cli import Project, marked, project_in, sh, wait_for
from tests.image import built


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which podman knows the image `gangrun-tests`, in a store of its own."""
    if not shutil.which("podman"):
        pytest.skip("packages are absent: podman")
    image = built()
    folder = tmp_path_factory.mktemp("podman")
    # Its own defaults lie above the limits of a container around us, in which they can only be lowered.
    limits = "[containers]\ndefault_ulimits = ['nofile=4096:4096', 'nproc=4096:4096']\n"
    (folder / "containers.conf").write_text(limits)
    (folder / "storage.conf").write_text(
        f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/store"\nrunroot = "{folder}/run"\n'
    )
    env = {
        "CONTAINERS_CONF": str(folder / "containers.conf"),
        "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
    }
    with subprocess.Popen(["tar", "-C", image.path, "-c", "."], stdout=subprocess.PIPE) as tar:
        done = subprocess.run(
            ["podman", "import", "--change", "ENV=FROM=image", "-", "gangrun-tests"],
            stdin=tar.stdout, capture_output=True, text=True, env={**os.environ, **env},
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    tried = subprocess.run(
        ["podman", "run", "--rm", "--network=host", "gangrun-tests", "true"],
        capture_output=True, text=True, env={**os.environ, **env},
    )  # fmt: skip
    if tried.returncode:
        pytest.skip(f"podman cannot run containers here: {tried.stderr.strip()[-200:]}")
    yield env
    subprocess.run(["podman", "system", "reset", "--force"], capture_output=True, env={**os.environ, **env})


@pytest.fixture
def project(podman: dict[str, str], tmp_path: Path) -> Iterator[Project]:
    with project_in(tmp_path / "project", **podman) as project:
        yield project


TABLE = """
[container]
runtime = "podman"
image = "gangrun-tests"
mounts = ["../../data:/srv:ro"]
env = { INSIDE = "container's" }
"""


def test_podman(project: Project) -> None:
    project.write("data/file", "the data\n")
    script = "cat /etc/image /srv/file; echo $FROM $INSIDE $RANK/$WORLD_SIZE $PWD; touch /srv/no; exit 7"
    text = 'launcher = "srun"\n' + sh(script) + "[env]\nFROM = 'experiment'\n" + TABLE
    project.write("experiments/podman/run.toml", text)
    done = project.gangrun("run", "experiments/podman/run.toml", env={"FROM": "outside"})
    assert done.code == 7, done.out + done.err
    told = [line.partition(" | ")[2] for line in done.out.splitlines()]
    assert told[:3] == ["a gangrun test image", "the data", f"experiment container's 0/1 {project.dir}"]
    assert "Read-only file system" in told[3]


def test_a_program_in_podman_ends_gently(project: Project) -> None:
    project.write("data/file", "")
    saving = "trap 'sleep 1; touch {run.dir}/saved; exit 0' TERM; echo up; while :; do sleep 0.1; done"
    project.write("experiments/podman/run.toml", sh(saving) + TABLE)
    project.ok("submit", "experiments/podman/run.toml", "--cluster", "local")
    wait_for(lambda: "up" in project.ok("logs", "latest").out)
    project.ok("cancel", "latest")
    shown = project.run()
    assert wait_for(lambda: not marked(f"GANGRUN_RUN_DIR={shown['dir']}"))
    assert Path(shown["dir"], "saved").is_file()


def test_an_image_that_podman_cannot_get(project: Project) -> None:
    project.write("data/file", "")
    project.write("experiments/podman/run.toml", sh("true") + TABLE.replace("gangrun-tests", "localhost/no-such"))
    done = project.gangrun("run", "experiments/podman/run.toml")
    assert done.code == 125
    assert "localhost/no-such" in done.out
    assert "exit code 125: its container could not be started" in project.ok("why").out
