"""Every message on the page is one that gangrun or Slurm gives: ours are provoked, Slurm's are looked up."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from gangrun.cli import main
from gangrun.scheduler import reasons
from tests.docs.pages import REPOSITORY, Page

PAGE = Page(REPOSITORY / "docs/troubleshooting.md")

MAIN = 'command = ["x"]\n'
FILES = {
    "`unknown key at the top`": "comand = []",
    "`is not TOML: …`": "command = python",
    "`a command is a list of words`": 'command = "python train.py"',
    "`could mean minutes or seconds`": f"{MAIN}allocation.time = 90",
    "`is no duration`": f'{MAIN}grace = "1.5m"',
    "`is neither yes nor no`": f'{MAIN}debug = "party"',
    "`but to end a job well takes up to`": (
        f'{MAIN}grace = "1m"\nrequeue = true\ncluster = "strict"\nallocation.account = "a"'
    ),
    "`unknown reference {…}`": 'command = ["x", "{sede}"]',
    "`{seed}, but the run has no seed`": 'command = ["x", "{seed}"]',
    "`has no port named`": 'command = ["x", "{self.port.http}"]',
    "`there is no role`": f'{MAIN}after = ["server"]',
    "`roles wait for each other`": (
        'roles.a = { command = ["x"], gpus = 0, after = "b" }\nroles.b = { command = ["x"], gpus = 0, after = "a" }'
    ),
    "`no role is a main, so the job would never end`": f'{MAIN}kind = "service"',
    "`is said twice: at the top of a file it means roles.main`": f'{MAIN}roles.main = {{ command = ["y"] }}',
    "`is set by the launcher or the scheduler`": f'{MAIN}env = {{ CUDA_VISIBLE_DEVICES = "0" }}',
    "`files extend each other in a circle`": f'{MAIN}extends = "step.toml"',
    "`no launcher is named`": f'{MAIN}launcher = "torchrn"',
    "`torchrun starts python by itself`": 'launcher = "torchrun"\ncommand = ["python", "train.py"]',
    "`is no mount`": f'{MAIN}container = {{ runtime = "pyxis", image = "x", mounts = ["data:/data"] }}',
    "`is a plugin of Slurm's srun, which starts nothing`": (
        f'{MAIN}container = {{ runtime = "pyxis", image = "x" }}\ncluster = "local"'
    ),
    "`is gangrun's own; the record relies on it`": f'{MAIN}allocation.sbatch = {{ job-name = "mine" }}',
    "`the plan would not know of it`": f'{MAIN}allocation.sbatch = {{ nodes = "3" }}',
    "`needs … GPUs on 1 node; free GPUs are …`": f"{MAIN}gpus = 3\nreplicas = 2\nallocation.gpus = 4",
    "`takes … whole node`": f'{MAIN}roles.b = {{ command = ["x"] }}\nallocation.gpus = 1',
    "`do not divide among`": f"{MAIN}replicas = 2\nallocation.nodes = 3",
    "`on each node, but allocation.gpus is`": f"{MAIN}gpus = 8",
    '`"shared" needs a role to share with`': f'{MAIN}gpus = "shared"',
    "`less than one for each of`": f"{MAIN}replicas = 4\nallocation.gpus = 4\nallocation.cpus = 2",
    "`requires --…, and nothing sets it`": f'{MAIN}cluster = "strict"',
    "`forbids --`": f'{MAIN}cluster = "strict"\nallocation.account = "a"\nallocation.sbatch = {{ exclusive = true }}',
    "`no cluster profile is named`": f'{MAIN}cluster = "nowhere"',
}
LONG = "l" * 60
COMMANDS = {
    "`no run '…'`": ["show", "nothing"],
    "`could be any of`": ["show", "project"],
    "`has no log of`": ["logs", "project/one", "--role", "trainer"],
    "`is not KEY=VALUE`": ["plan", "ok.toml", "--set", "nodes"],
    "`and the container of … needs it`": [
        *("check", "ok.toml", "--cluster", "local"),
        *("--set", 'container={ runtime = "charliecloud", image = "/no/such" }'),
    ],
    "`is no list of seeds`": ["submit", "ok.toml", "--seeds", "one"],
    "`this machine has no sbatch to take flags`": ["submit", "ok.toml", "--cluster", "local", "--", "--nice"],
    "`the run id … has … characters`": ["run", "ok.toml", "--set", f"step={LONG}"],
    "`cannot make the run directory`": ["run", "ok.toml", "--set", "experiment=occupied"],
    "`no Slurm is configured on this machine`": ["cluster", "discover", "--cluster", "local"],
    "`there is no sbatch on this machine's PATH`": ["submit", "ok.toml", "--cluster", "slurm"],
}


def headings(*sections: str) -> list[str]:
    """The messages under these headings."""
    found: list[str] = []
    for section in sections:
        found += [line[4:] for line in PAGE.section(section) if line.startswith("### ")]
    return found


def says(heading: str, text: str) -> bool:
    return re.search(".*".join(map(re.escape, heading.strip("`").split("…"))), text) is not None


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project on a machine without Slurm."""
    folder = tmp_path / "project"
    (folder / "clusters").mkdir(parents=True)
    (folder / "clusters/strict.toml").write_text('require = ["account"]\nforbid = ["exclusive"]\n')
    (folder / "ok.toml").write_text('command = ["true"]\n')
    (folder / "outputs").mkdir()
    (folder / "outputs/occupied").write_text("a file in the way")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "git"):
        (programs / name).symlink_to(Path("/usr/bin") / name)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("GANGRUN_CLUSTER", raising=False)
    return folder


def test_there_are_enough() -> None:
    assert len(PAGE.headings(3)) >= 60
    assert len(set(PAGE.headings(3))) == len(PAGE.headings(3))


def test_every_entry_has_a_meaning() -> None:
    for heading in PAGE.headings(3):
        meaning = " ".join(PAGE.section(heading)).strip().partition("**Way out:**")[0]
        assert len(meaning) > 20, heading


def test_every_message_of_ours_is_provoked() -> None:
    ours = headings("The experiment file", "Placement", "Commands", "Clusters")
    assert set(ours) == {*FILES, *COMMANDS}


@pytest.mark.parametrize("heading", FILES)
def test_file_gives_this_message(heading: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "step.toml").write_text(FILES[heading])
    cluster = [] if "cluster" in FILES[heading] else ["--cluster", "slurm"]
    assert main(["check", "step.toml", *cluster]) == 2
    assert says(heading, capsys.readouterr().err)


@pytest.mark.parametrize("heading", COMMANDS)
def test_command_gives_this_message(heading: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step in ("one", "two"):
        logs = project / f"outputs/project/{step}/261121_100000/attempts/001/logs"
        logs.mkdir(parents=True)
        (logs / "main.0.log").touch()
        (logs.parents[2] / "events.jsonl").touch()
    assert main(COMMANDS[heading]) in (1, 2)
    assert says(heading, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("section", "look_up"),
    [("Slurm refuses it", reasons.refused), ("It waits", reasons.pending), ("It ended", reasons.ended)],
)
def test_message_of_slurm_is_known(section: str, look_up: Callable[[str], reasons.Meaning]) -> None:
    for heading in headings(section):
        text = heading.strip("`")
        if text != "LOST":  # is gangrun's own
            assert look_up(text).words != text, f"{text} is in no table of reasons.py"


def test_message_of_the_script_is_in_the_prelude() -> None:
    preludes = "".join(path.read_text() for path in (REPOSITORY / "src/gangrun/script/preludes").glob("*.sh"))
    for text in ("is not ready after", "and is started again", "the plan needs $1 nodes", "exec -- ", "--cpu-bind"):
        assert text in preludes, text
    for cause in ("unready", "lost", "signal", "setup", "ports"):
        assert re.search(rf"end ['\"]?{cause}|CAUSE=['\"]?{cause}", preludes), cause


def test_message_of_the_lab_is_in_its_code() -> None:
    spoken = []
    for path in (REPOSITORY / "src/gangrun/lab").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                pieces = [str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values]
                spoken.append("".join(pieces))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                spoken.append(node.value)
    for heading in headings("The lab"):
        assert any(heading.strip("`") in text for text in spoken), heading
