"""`[code] snapshot = true`: a run uses the code as it was at submission, and nothing else of the project."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gangrun.record import code
from tests.gangrun_cli import Done, Project, sh, wait_for

Said = Callable[..., Done]
FILE = "experiments/x/run.toml"
SNAPSHOT = "[code]\nsnapshot = true\n"


def git(project: Project, *words: str) -> str:
    argv = ["git", "-c", "user.name=Ada", "-c", "user.email=ada@example.org", *words]
    return subprocess.run(argv, cwd=project.dir, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def repository(project: Project) -> Project:
    """A project in git, with a package in `src` that a program uses; changed since the commit."""
    project.write(".gitignore", "outputs\n.config\nvenv\nignored\n")
    project.write("src/mine/__init__.py", "WORDS = 'committed'\n")
    project.write("tools/train.py", "import os\nimport mine\nprint(mine.WORDS, os.getcwd())\n")
    project.write(FILE, "command = ['python', 'tools/train.py']\n[env]\nPYTHONPATH = '{code.dir}/src'\n" + SNAPSHOT)
    git(project, "init", "--quiet")
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "--message=first")
    project.write("src/mine/__init__.py", "WORDS = 'change_ed'\n")  # as long as before, and in the same second
    return project


def copies(project: Project) -> list[Path]:
    return sorted(path for path in (project.dir / "outputs/.code").iterdir() if path.name[0] != ".")


def age(project: Project) -> None:
    """As if all copies had been made an hour ago."""
    for one in copies(project):
        os.utime(one, (time.time() - 3600,) * 2)


def test_a_queued_run_does_not_see_what_changes(repository: Project) -> None:
    project = repository
    waits = f"until [ -e {project.dir}/ignored/go ]; do sleep 0.1; done"
    queued = sh(f"{waits}; python tools/train.py; cat {{file.dir}}/run.toml")
    project.write(FILE, queued + "[env]\nPYTHONPATH = '{code.dir}/src'\n" + SNAPSHOT)
    project.write("new.py", "")
    before = git(project, "status", "--porcelain"), sorted((project.dir / ".git").rglob("*"))
    sent = project.ok("submit", FILE)
    assert "not in the copy of the code, as git does not track it: new.py" in sent.err
    assert (git(project, "status", "--porcelain"), sorted((project.dir / ".git").rglob("*"))) == before
    project.write("src/mine/__init__.py", "WORDS = 'too late'\n")
    project.write(FILE, "broken")
    (project.dir / "tools/train.py").unlink()
    project.write("ignored/go", "")
    wait_for(lambda: project.run()["state"] == "COMPLETED")
    (copy,) = copies(project)
    run = Path(project.run()["dir"])
    printed = project.ok("logs").out
    assert f"main.0 | change_ed {copy}" in printed
    assert "snapshot = true" in printed  # {file.dir} is the copy's, too
    head = git(project, "rev-parse", "HEAD")
    first = (run / "job.log").read_text().splitlines()[0]
    assert first == f"gangrun: code: commit {head}, and the changes in diff.patch; tree {copy.name}; copied to {copy}"
    assert (run / "code").resolve() == copy.resolve()
    # Where root runs, Python keeps its byte-code even here.
    kept = [path for path in copy.rglob("*") if not path.is_symlink() and path.suffix != ".pyc"]
    assert [path for path in kept if path.stat().st_mode & 0o222 and path.name != "__pycache__"] == []


def test_the_trap_of_an_editable_install(repository: Project, tmp_path: Path) -> None:
    """The installed project is the live one, and Python would take it from there."""
    project = repository
    project.write("pyproject.toml", "[project]\nname = 'mine'\nversion = '1'\n")
    git(project, "add", "pyproject.toml")
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    site = str(Path(pytest.importorskip("setuptools").__file__).parents[1])
    install = ["-m", "pip", "install", "--quiet", "--no-build-isolation", "--no-deps", "--no-index", "--editable"]
    env = {**os.environ, "PYTHONPATH": site}
    subprocess.run([venv / "bin/python", *install, project.dir], env=env, check=True)
    trapped = f"command = ['python', 'tools/train.py']\nsetup = {{ venv = '{venv}' }}\n" + SNAPSHOT
    project.write(FILE, trapped)
    done = project.gangrun("run", FILE)
    run = project.run()
    assert (done.code, run["state"]) == (1, "FAILED")
    log = Path(run["dir"], "job.log").read_text()
    assert f"{venv}/bin/python would import mine from {project.dir}/src/mine/__init__.py" in log
    assert 'way out: [env] PYTHONPATH = "{code.dir}/src"' in log
    assert not Path(run["dir"], "attempts/001/logs/main.0.log").exists(), "it failed before any work"
    assert "would import mine from" in project.ok("why").out

    project.write(FILE, trapped + "[env]\nPYTHONPATH = '{code.dir}/src'\n")
    project.ok("run", FILE)
    assert "change_ed" in project.ok("logs").out
    # Without a snapshot it is no trap but what one wants.
    project.write(FILE, trapped.replace(SNAPSHOT, ""))
    project.ok("run", FILE)
    # As one role has it.
    project.write(FILE, trapped + "[roles.main.env]\nPYTHONPATH = '{code.dir}/src'\n")
    project.ok("run", FILE)
    # A script's own folder comes first for it, as Python has it.
    project.write("tools/mine.py", "WORDS = 'beside'\n")
    git(project, "add", "tools/mine.py")
    project.write(FILE, trapped)
    project.ok("run", FILE)
    assert "beside" in project.ok("logs").out


def test_one_copy_for_all_items_and_for_what_did_not_change(repository: Project) -> None:
    project = repository
    sweep = "command = ['python', 'tools/train.py', '{n}']\n[env]\nPYTHONPATH = '{code.dir}/src'\n[sweep]\nn = [1, 2]\n"
    project.write(FILE, sweep + SNAPSHOT)
    project.ok("submit", FILE, "--wait")
    project.write("pool.toml", sweep + "[pool]\n" + SNAPSHOT)
    git(project, "add", "pool.toml")
    project.ok("submit", "pool.toml", "--wait")
    assert [run["state"] for run in project.runs()] == ["COMPLETED"] * 2
    assert len(copies(project)) == 2  # without and with pool.toml
    latest = project.runs()[0]
    for item in project.ok("results", latest["run"], "--json").data:
        printed = project.ok("logs", f"{latest['run']}/{item['item']}").out
        assert f"change_ed {copies(project)[0].parent}" in printed


def test_resume_has_the_code_of_its_run(repository: Project, said: Said) -> None:
    project = repository
    project.write(
        "tools/train.py", "import mine, sys, os\nprint(mine.WORDS)\nsys.exit(not os.path.exists('/nowhere'))\n"
    )
    assert project.gangrun("run", FILE).code == 1
    project.write("src/mine/__init__.py", "WORDS = 'later'\n")
    (run,) = project.runs()
    age(project)
    kept = said("clean")
    assert f"stays for {run['run']}, which is FAILED" in kept.out
    assert "freed 0.0 MB: 0 of 1 copies" in kept.out
    project.gangrun("resume", run["run"], "--wait")
    attempts = Path(run["dir"], "attempts")
    assert [(attempts / n / "logs/main.0.log").read_text() for n in ("001", "002")] == ["change_ed\n", "change_ed\n"]
    age(project)
    (copy,) = copies(project)
    assert "would free" in said("clean", "--failed", "--dry-run").out
    assert copy.exists()
    gone = said("clean", "--failed")
    assert f"{copy}  0.0 MB  had 1 runs, none of which needs it" in gone.out
    assert not copy.exists()
    assert (project.dir / "outputs/.code").is_dir()
    refused = said("resume", run["run"])
    assert refused.code == 2
    assert "its copy of the code is gone" in refused.err
    assert f"gangrun submit {run['dir']}/spec.toml begins anew" in refused.err


def test_clean_leaves_alone_what_is_needed_and_what_is_not_its_own(repository: Project, said: Said) -> None:
    project = repository
    project.ok("run", FILE)
    done = project.run()
    project.write(FILE, (project.dir / FILE).read_text().replace("['python', 'tools/train.py']", "['sleep', '600']"))
    project.ok("submit", FILE)
    alive = project.run()
    fresh = said("clean")
    assert fresh.out.count("stays for") == 2  # one of them was given to a run a moment ago
    age(project)
    outside = project.dir / "outside"
    outside.mkdir()
    folder = project.dir / "outputs/.code"
    (folder / ("a" * 40)).symlink_to(outside)
    (folder / "notes").mkdir()
    rows = said("clean", "--json").data
    stays = {Path(row["copy"]).name: row["stays_for"] for row in rows}
    first, second = (Path(run["dir"], "code").readlink().name for run in (done, alive))
    assert stays == {first: "", second: f"{alive['run']}, which is RUNNING"}
    assert not (folder / first).exists()
    assert Path(alive["dir"], "code").is_dir()
    assert Path(done["dir"], "spec.toml").exists()
    assert outside.is_dir()
    assert (folder / "notes").is_dir()
    project.ok("cancel", alive["run"])
    wait_for(lambda: project.run(alive["run"])["state"] == "CANCELLED")
    (folder / ("a" * 40)).unlink()
    folder.rename(project.dir / "elsewhere")
    folder.symlink_to(project.dir / "elsewhere")
    assert "0 of 0 copies" in said("clean", "--failed").out
    assert (project.dir / "elsewhere" / second).is_dir()


def test_a_copy_that_is_given_out_meanwhile_is_not_deleted(tmp_path: Path) -> None:
    copy = tmp_path / code.CODE / ("0" * 40)
    copy.mkdir(parents=True)
    (found,) = code.kept(tmp_path, {})
    os.utime(copy, (found.used + 1, found.used + 1))  # as `code.make` does for the next run
    assert not found.delete()
    assert copy.is_dir()
    (found,) = code.kept(tmp_path, {})
    assert found.delete()
    assert not list((tmp_path / code.CODE).iterdir())


def test_what_cannot_be_copied(repository: Project, said: Said) -> None:
    project = repository

    def refused(text: str, *words: str) -> str:
        project.write(FILE, text + SNAPSHOT)
        done = said("run", FILE, *words)
        assert done.code == 2, done.err
        assert not (project.dir / "outputs").exists()
        return done.err

    project.write("ignored/data.npy", "x")
    told = refused("command = ['python', 'tools/train.py', '--data=ignored/data.npy']\n")
    assert f"{FILE}:1: command[2]: ignored/data.npy is not in the copy of the code" in told
    assert "git add it, or name it by its whole path" in told
    assert "untracked.py is not in the copy" in refused(_made(project, "untracked.py"))
    assert "ignored is not in the copy of the code" in refused("command = ['true']\nworkdir = '../../ignored'\n")
    assert ".config/x.sh is not in the copy" in refused(
        _made(project, ".config/x.sh", "setup = ['source .config/x.sh']")
    )
    (project.dir / ".git").rename(project.dir / "git")
    project.write(FILE, "command = ['true']\n" + SNAPSHOT)
    done = project.gangrun("run", FILE)
    assert done.code == 2
    told = done.err
    assert "[code] snapshot = true takes what git tracks" in told
    assert "not a git repository" in told
    assert "git init" in told


def _made(project: Project, name: str, more: str = "") -> str:
    project.write(name, "")
    return f"command = ['python', './{name}']\n{more}\n"


def test_submodules_large_files_links_and_modes(repository: Project) -> None:
    project = repository
    other = project.dir / "ignored/other"
    other.mkdir(parents=True)
    inner = Project(other)
    inner.write("a.py", "")
    for words in (["init", "--quiet"], ["add", "a.py"], ["commit", "--quiet", "-m", "a"]):
        git(inner, *words)
    git(project, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(other), "third_party/other")
    project.write(".gitattributes", "*.bin filter=lfs\n")
    project.write("weights.bin", "weights")
    project.write("run.sh", "echo from run.sh; cat 'a link'")
    (project.dir / "run.sh").chmod(0o755)
    (project.dir / "a link").symlink_to("weights.bin")
    project.write("deleted.txt", "")
    git(project, "add", "--all")
    (project.dir / "deleted.txt").unlink()
    project.write(FILE, "command = ['./run.sh']\n" + SNAPSHOT)
    (project.dir / "run.sh").write_text("#!/bin/bash\n" + (project.dir / "run.sh").read_text())
    done = project.ok("run", FILE)
    assert "the copy of the code has nothing of the submodule third_party/other" in done.err
    assert "weights.bin is in the copy of the code as Git LFS gives it out here" in done.err
    assert "from run.sh\nmain.0 | weights" in project.ok("logs").out
    (copy,) = copies(project)
    assert not (copy / "deleted.txt").exists()
    assert (copy / "a link").is_symlink()
    assert "the submodule" in Path(project.run()["dir"], "events.jsonl").read_text()


def test_a_project_below_the_repository_reached_by_a_link(repository: Project) -> None:
    project = repository
    project.write("part/clusters/.keep", "")
    project.write("part/experiments/x/run.toml", "command = ['python', 'own.py']\n" + SNAPSHOT)
    project.write("part/own.py", "import os; print(os.getcwd(), os.path.exists('../tools/train.py'))\n")
    git(project, "add", "--all")
    link = project.dir / "ignored/link"
    link.parent.mkdir()
    link.symlink_to(project.dir / "part")
    below = Project(link, project.env)
    below.ok("run", "experiments/x/run.toml")
    (copy,) = (project.dir / "part/outputs/.code").iterdir()
    assert f"/outputs/.code/{copy.name}/part True" in below.ok("logs").out
