from __future__ import annotations

import multiprocessing
import os
import random
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gangrun.errors import InputError, RecordError, RunNotFound
from gangrun.record.events import Created, Found, Note, Submitted, Submitting
from gangrun.record.naming import LONGEST
from gangrun.record.rundir import RunDir
from gangrun.record.state import fold
from gangrun.record.store import Store


def script(run: RunDir) -> str:
    return f"#!/bin/sh\n# run {run.run_id}\ncd '{run.dir}'\n"


def create(store: Store, experiment: str = "001_exp", step: str = "000_step", **more: object) -> RunDir:
    settings = {"spec": "a = 1\n", "script": script, "project": store.root.parent, "created": Created(cluster="lab")}
    return store.create(experiment, step, **(settings | more))  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "outputs")


def everything(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def test_a_new_run_is_complete(store: Store) -> None:
    before = time.time()
    run = create(store, spec="name = 'größe'\n", created=Created(gangrun="0.1.0", argv=("submit", "x"), cluster="lab"))
    assert run.path.parent == store.root / "001_exp" / "000_step"
    assert run.spec.read_text() == "name = 'größe'\n"
    assert run.script.read_text() == script(run)
    assert run.commit.read_text().startswith("commit: none\nnote: not a git repository")
    assert not run.diff.exists()
    (event,) = run.read_events()
    assert isinstance(event, Created)
    assert (event.gangrun, event.argv, event.cluster, event.commit, event.dirty) == (
        "0.1.0",
        ("submit", "x"),
        "lab",
        "",
        False,
    )
    assert before - 1 <= event.t <= time.time()
    assert fold(run, [event], run.facts(), None, time.time()).state == "CREATED"
    assert run.latest.readlink() == Path(run.stamp)
    assert [path.name for path in run.path.parent.iterdir() if path.name.startswith(".")] == []


def test_items_share_the_programs_of_their_node_and_nothing_else(store: Store) -> None:
    items = [f"items/{name}/{file}" for name in "abc" for file in ("node/monitor.py", "events.jsonl")]
    run = create(store, files=dict.fromkeys(items, b"print()\n"))
    programs, events = (
        [run.path / f"items/{name}/{file}" for name in "abc"] for file in ("node/monitor.py", "events.jsonl")
    )
    assert {path.stat().st_nlink for path in programs} == {3}
    assert {path.stat().st_nlink for path in events} == {1}
    assert {path.read_bytes() for path in programs} == {b"print()\n"}


def test_other_files_come_with_it(store: Store) -> None:
    run = create(store, files={"node/pool.py": b"print()\n", "items.jsonl": b"{}\n"})
    assert (run.path / "node" / "pool.py").read_bytes() == b"print()\n"
    assert (run.path / "items.jsonl").read_bytes() == b"{}\n"


def test_a_file_may_hold_the_runs_own_directory(store: Store) -> None:
    run = create(store, files={"configs/a": lambda run: run.dir.encode()})
    assert (run.path / "configs" / "a").read_text() == run.dir


def test_what_a_killed_process_left_goes_with_a_later_run(store: Store) -> None:
    folder = create(store).path.parent
    old, young = folder / ".261121_000000.new", folder / ".261121_000001.new"
    for draft in (old, young):
        draft.mkdir()
        (draft / "spec.toml").write_text("half")
    two_hours_ago = time.time() - 7200
    os.utime(old, (two_hours_ago, two_hours_ago))
    create(store)
    assert not old.exists()
    assert young.exists(), "another process may be at work on it"
    assert len(list(store.runs())) == 2


def test_only_the_owner_sees_a_run(store: Store) -> None:
    run = create(store)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [run.path, *run.path.iterdir()]}
    assert modes == {
        run.stamp: 0o700,
        "spec.toml": 0o600,
        "script.sh": 0o700,
        "commit.txt": 0o600,
        "events.jsonl": 0o600,
    }


@pytest.mark.parametrize(
    "name", ["a'; echo foo", "with blank", 'q"uote', "new\nline", "$(id)", "\udcff", "-dash", "größe"]
)
def test_a_project_may_be_called_anything(tmp_path: Path, name: str) -> None:
    project = tmp_path / name
    project.mkdir()
    store = Store(project / "outputs")
    run = create(store)
    assert run.script.read_text(errors="surrogateescape") == script(run)
    assert list(store.runs()) == [run]
    assert store.find(run.run_id) == run
    assert store.find(run.dir) == run


@pytest.mark.parametrize(
    ("experiment", "step", "folder"),
    [("../up", "/etc/passwd", "-up/etc-passwd"), ("a b", "c,d=1", "a-b/c-d-1"), (".git", "latest", "git/latest")],
)
def test_hostile_names_stay_below_the_root(store: Store, experiment: str, step: str, folder: str) -> None:
    run = create(store, experiment, step)
    assert run.path.parent == store.root / folder.lstrip("-")
    assert re.fullmatch(r"[A-Za-z0-9._-]+", run.run_id)
    assert store.find(run.run_id) == run
    assert list(store.runs()) == [run]


@pytest.mark.parametrize(("experiment", "step"), [("e" * 30, "s" * 30), ("", "s"), ("e", "日本")])
def test_names_that_make_no_id_leave_nothing(store: Store, experiment: str, step: str) -> None:
    with pytest.raises(InputError):
        create(store, experiment, step)
    assert not store.root.exists()


def test_a_script_that_cannot_be_made_leaves_nothing(store: Store) -> None:
    kept = create(store, "kept")
    before = everything(store.root)

    def broken(run: RunDir) -> str:
        assert (run.path.parent).is_dir()
        raise ValueError("no such template")

    with pytest.raises(ValueError, match="no such template"):
        create(store, script=broken)
    with pytest.raises(ValueError, match="no such template"):
        create(store, "kept", script=broken)
    assert everything(store.root) == before
    assert list(store.runs()) == [kept]


def test_an_interrupted_creation_leaves_nothing(store: Store) -> None:
    def interrupted(run: RunDir) -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        create(store, script=interrupted)
    assert not store.root.exists()


def test_a_file_in_the_way_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "outputs").write_text("mine")
    with pytest.raises(RecordError, match="a file is in the way") as caught:
        create(Store(tmp_path / "outputs"))
    assert str(caught.value).startswith(f"{tmp_path}/outputs: cannot make the run directory")
    with pytest.raises(RecordError, match="a file is in the way"):
        create(Store(tmp_path / "outputs" / "below"), project=tmp_path)
    with pytest.raises(RecordError, match="cannot list the runs"):
        list(Store(tmp_path / "outputs").runs())
    assert (tmp_path / "outputs").read_text() == "mine"


def test_a_full_disk_leaves_nothing(small_disk: Path) -> None:
    store = Store(small_disk / "outputs")
    first = create(store, spec="x" * 20_000)
    before = everything(small_disk)
    for experiment in ["001_exp", "another"]:
        with pytest.raises(RecordError, match="the disk is full") as caught:
            create(store, experiment, spec="x" * 60_000)
        assert "free some space" in caught.value.way_out
        assert everything(small_disk) == before
    assert list(store.runs()) == [first]


def test_a_read_only_file_system_is_said_in_words(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(RecordError, match="mounted read-only"):
        create(Store(small_disk / "outputs"))
    assert everything(small_disk) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_forbidden_directory_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "outputs").mkdir(mode=0o500)
    with pytest.raises(RecordError, match="no permission"):
        create(Store(tmp_path / "outputs"))


def test_a_link_that_cannot_be_made_does_no_harm(store: Store) -> None:
    (store.root / "001_exp" / "000_step" / "latest").mkdir(parents=True)
    run = create(store)
    note = run.read_events()[-1]
    assert isinstance(note, Note)
    assert "no link `latest`" in note.text
    assert store.find("001_exp/000_step") == run
    assert sorted(path.name for path in run.path.parent.iterdir()) == sorted([run.stamp, "latest"])


def test_many_of_one_second_are_told_apart(store: Store) -> None:
    runs = [create(store) for _ in range(12)]
    assert len({run.run_id for run in runs}) == 12
    assert list(store.runs()) == runs[::-1]
    assert store.find("latest") == runs[-1]
    assert runs[0].latest.readlink() == Path(runs[-1].stamp)


def test_long_names_of_one_second_are_told_apart(store: Store) -> None:
    runs = [create(store, "e" * 20, "s" * 29) for _ in range(4)]
    assert {len(run.run_id) for run in runs} == {LONGEST}
    assert len({run.run_id for run in runs}) == 4


def test_names_that_join_to_one_id_are_told_apart(store: Store) -> None:
    runs = [create(store, *names) for names in [("a", "b_c"), ("a_b", "c"), ("a", "b_c"), ("a_b", "c")]]
    assert len({run.run_id for run in runs}) == 4


def _create_some(root: str, names: list[tuple[str, str]]) -> None:
    store = Store(root)
    for experiment, step in names:
        create(store, experiment, step)


def test_processes_that_create_at_once_get_names_of_their_own(store: Store) -> None:
    context = multiprocessing.get_context("spawn")
    names = [("a", "b_c"), ("a_b", "c")] * 15
    children = [context.Process(target=_create_some, args=(str(store.root), names)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    runs = list(store.runs())
    assert len(runs) == 90
    assert len({run.run_id for run in runs}) == 90
    assert all(run.script.read_text() == script(run) for run in runs)


@pytest.mark.slow
def test_a_killed_creator_leaves_whole_runs_or_none(store: Store) -> None:
    program = (
        "import sys\n"
        "from gangrun.record.events import Created, Submitting\n"
        "from gangrun.record.store import Store\n"
        "store = Store(sys.argv[1])\n"
        "print('up', flush=True)\n"
        "while True:\n"
        "    run = store.create('001_exp', '000_step', spec='a = 1\\n' * 2000, project=sys.argv[1],\n"
        "                       created=Created(), script=lambda run: f'# {run.run_id}\\n' * 2000)\n"
        "    print(run.dir, flush=True)\n"
        "    run.append(Submitting.here(1, run.run_id))\n"
    )
    dice = random.Random(7)
    confirmed: list[str] = []
    for _ in range(20):
        with subprocess.Popen(
            [sys.executable, "-c", program, str(store.root)], stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "up\n"
            confirmed += [child.stdout.readline().rstrip("\n") for _ in range(dice.randrange(3))]
            time.sleep(dice.random() * 0.01)  # somewhere in the making of the next
            child.send_signal(signal.SIGKILL)
            confirmed += [line for line in child.stdout.read().split("\n") if line]
        for run in list(store.runs()):
            events = run.read_events()
            assert isinstance(events[0], Created)
            assert fold(run, events, run.facts(), None, time.time()).state in {"CREATED", "SUBMITTING"}
            assert run.spec.stat().st_size == len("a = 1\n" * 2000)
            assert run.script.read_text() == f"# {run.run_id}\n" * 2000
            assert run.commit.exists()
    shown = {run.dir for run in store.runs()}
    assert len(confirmed) >= 10
    assert set(confirmed) <= shown
    assert len(shown - set(confirmed)) <= 20
    later = create(store)
    assert next(store.runs()) == later
    assert store.find("001_exp/000_step/latest") == later


def test_a_creator_killed_before_any_call_leaves_whole_runs_or_none(store: Store) -> None:
    """Kills one process before its first call that touches a file, one before its second, and so on to the end."""
    program = (
        "import os, signal, sys\n"
        "from gangrun.record.events import Created\n"
        "from gangrun.record.store import Store\n"
        "import gangrun.record.source, shutil\n"
        "store = Store(sys.argv[1])\n"
        "store._source(sys.argv[1])\n"
        "def make():\n"
        "    store.create('001_exp', f'{calls:03d}_step', spec='a', project=sys.argv[1], created=Created(),\n"
        "                 script=lambda run: 'b')\n"
        "left = 0\n"
        "def count(event, args):\n"
        "    global left\n"
        "    if event == 'open' or event.startswith('os.'):\n"
        "        left -= 1\n"
        "        if left == 0:\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "for calls in range(1, 1000):\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        sys.addaudithook(count)\n"
        "        left = calls\n"
        "        make()\n"
        "        os._exit(0)\n"
        "    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:\n"
        "        break\n"
        "print(calls)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(store.root)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 10
    runs = list(store.runs())
    for run in runs:
        assert [type(event) for event in run.read_events()] == [Created]
        assert (run.spec.read_text(), run.script.read_text()) == ("a", "b")
        assert run.commit.exists()
    assert 1 < len(runs) < int(done.stdout)
    for step in range(1, int(done.stdout)):
        later = create(store, "001_exp", f"{step:03d}_step")
        assert store.find(f"001_exp/{step:03d}_step") == later


def test_no_runs_where_nothing_was_run(store: Store) -> None:
    assert list(store.runs()) == []
    with pytest.raises(RunNotFound, match="no run yet"):
        store.find("latest")
    with pytest.raises(RunNotFound, match="no run yet"):
        store.find("a/b")


def test_what_is_no_run_is_not_listed(store: Store) -> None:
    run = create(store)
    (run.path.parent / ".260131_154500.new").mkdir()
    (run.path.parent / "notes").mkdir()
    (run.path.parent / "260131_154501").write_text("a file")
    (store.root / "file").write_text("")
    (store.root / ".cache" / "x" / "260131_154500").mkdir(parents=True)
    assert list(store.runs()) == [run]


def test_runs_on_another_disk_are_listed_through_a_link(store: Store, tmp_path: Path) -> None:
    (tmp_path / "scratch" / "000_step").mkdir(parents=True)
    store.root.mkdir()
    (store.root / "001_exp").symlink_to(tmp_path / "scratch")
    run = create(store)
    assert run.path.resolve().parent == tmp_path / "scratch" / "000_step"
    assert list(store.runs()) == [run]
    assert store.find(str(run.path)).run_id == run.run_id


@pytest.fixture
def filled(store: Store) -> list[RunDir]:
    """Runs of two experiments, oldest first, of which some were submitted."""
    runs = [create(store, "001_exp", "000_a"), create(store, "001_exp", "000_a"), create(store, "002_other", "000_a")]
    runs[0].append(Submitted("1234", "lab"))
    runs[1].append(Found("1235_7", "lab"))
    runs[2].append(Submitted("local-99-12345", "local"))
    return runs


def test_a_run_is_found_by_every_name(
    store: Store, filled: list[RunDir], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first, second, other = filled
    for run in filled:
        assert store.find(run.run_id) == run
        assert store.find(run.dir) == run
        assert store.find(f"{run.experiment}/{run.step}/{run.stamp}") == run
        assert store.find(f"{run.dir}/spec.toml") == run
    assert store.find("002") == other
    assert store.find("latest") == other
    assert store.find("001_exp/000_a") == second
    assert store.find("001_exp/000_a/") == second
    assert store.find("001_exp/000_a/latest") == second
    assert store.find(second.run_id) == second
    assert store.find("1234") == first
    assert store.find("1235_7") == second
    assert store.find("local-99-12345") == other
    monkeypatch.chdir(tmp_path)
    assert store.find(f"outputs/001_exp/000_a/{first.stamp}") == first
    assert store.find("./outputs/001_exp/000_a") == second
    monkeypatch.chdir(first.path)
    assert store.find(".") == first
    assert store.find("002_other/000_a") == other  # though one stands in a run
    assert store.find(f"../{second.stamp}") == second
    monkeypatch.chdir(first.path.parent)
    assert store.find(first.stamp) == first


def test_the_link_is_not_what_decides(store: Store, filled: list[RunDir]) -> None:
    first, second, _ = filled
    second.latest.unlink()
    assert store.find("001_exp/000_a") == second
    second.latest.symlink_to(first.stamp)
    assert store.find("001_exp/000_a") == second


def test_a_name_that_means_one_step_is_its_newest_run(store: Store, filled: list[RunDir]) -> None:
    assert store.find("001_exp") == filled[1]
    assert store.find("001_exp_000_a") == filled[1]
    with pytest.raises(RunNotFound):
        store.find("000_a")  # both experiments have such a step


def test_two_clusters_jobs_of_one_number(store: Store, filled: list[RunDir]) -> None:
    filled[2].append(Submitted("1234", "elsewhere"))
    with pytest.raises(RunNotFound, match="there is a job 1234 on elsewhere and lab"):
        store.find("1234")


def test_the_newest_of_one_clusters_jobs_of_one_number(store: Store, filled: list[RunDir]) -> None:
    filled[2].append(Submitted("1234", "lab"))
    assert store.find("1234") == filled[2]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("001", "could be any of 2 runs"),
        ("001_exp_000_", "write more of the name, or 001_exp/000_a for its newest run"),
        ("001_exq_000_a", "near it: 001_exp/000_a"),
        ("OTHER", "near it: 002_other/000_a"),
        ("001_exp/000_b", "near it: 001_exp/000_a"),
        ("/nowhere/at/all", "no run '/nowhere/at/all'"),
        ("999", "no run '999'"),
        ("", "no run ''"),
        ("..", "no run '..'"),
        ("a\0b/c", "no run"),
        ("x/" + "y" * 5000, "no run"),
        ("z" * 5000, "no run"),
        ("260131_154500", "no run"),
    ],
)
def test_what_names_no_run_is_answered_with_names(store: Store, filled: list[RunDir], text: str, told: str) -> None:
    with pytest.raises(RunNotFound) as caught:
        store.find(text)
    assert told in str(caught.value)


def test_an_ambiguous_name_lists_the_newest(store: Store) -> None:
    runs = [create(store) for _ in range(8)]
    with pytest.raises(RunNotFound) as caught:
        store.find("001")
    assert caught.value.why == ", ".join(run.run_id for run in runs[:2:-1]) + " and 3 more"


def test_one_whole_id_is_not_the_beginning_of_another(store: Store) -> None:
    pairs = ((create(store), create(store)) for _ in range(30))
    # Of one second: on a busy machine not every pair is.
    first, _ = next(pair for pair in pairs if pair[1].run_id.startswith(pair[0].run_id))
    assert store.find(first.run_id) == first


def test_a_damaged_run_does_not_hide_the_others(store: Store, filled: list[RunDir]) -> None:
    filled[2].events.unlink()
    filled[1].events.write_bytes(b"\xff\0{]")
    assert store.find("1234") == filled[0]
    assert len(list(store.runs())) == 3


def test_a_submission_names_this_process(store: Store) -> None:
    run = create(store)
    run.append(Submitting.here(1, run.run_id))
    event = run.read_events()[-1]
    assert isinstance(event, Submitting)
    assert (event.attempt, event.name, event.pid) == (1, run.run_id, os.getpid())


def test_an_item_that_a_sweep_does_not_have(store: Store) -> None:
    lines = b"".join(b'{"index": %d, "name": "lr=%d", "parameters": {}}\n' % (number, number) for number in (1, 2))
    run = create(store, files={"items.jsonl": lines})
    assert store.find("latest/lr=2").is_item
    with pytest.raises(RunNotFound, match=f"no run 'latest/lr=3', and the sweep {run.run_id} has no item 'lr=3'") as no:
        store.find("latest/lr=3")
    assert no.value.why == "near it: lr=2, lr=1"
    assert no.value.way_out == f"gangrun show {run.run_id} lists its items"
    with pytest.raises(RunNotFound, match=r"no run 'nothing/lr=2'\n  way out"):
        store.find("nothing/lr=2")
