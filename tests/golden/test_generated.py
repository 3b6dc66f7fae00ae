"""Scripts of the generator, as files to read: one for each kind of training. `make bless` writes them anew."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from gangrun.recipes import generate
from gangrun.resolve import resolve
from gangrun.script.render import render
from gangrun.spec.model import Profile
from gangrun.spec.profile import Cluster

FOLDER = Path(__file__).parent / "generate"
SITE = {
    "defaults": {"qos": "normal"},
    "qos": {"normal": {"account": "my-account", "partition": "gpu", "mem": "500G", "cpus": 128}},
    "setup": ['source "$MULOCO_PATH/setup.sh"'],
    "env": {"LOGLEVEL": "INFO", "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"},
}
KINDS: dict[str, dict[str, Any]] = {
    "ddp": {"use_ddp": True, "nodes": 4, "extra_args": "optimizer.lr=0.03 training.steps=8160"},
    "single-node": {"nodes": 2, "extra_args": "parallelism.fsdp_reshard_after_forward='never' path=$HOME"},
    "multi-node": {"nodes": 4, "nodes_per_replica": 2, "mail_user": "ada@example.com", "output": "/logs/%j.out"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_script_is_the_golden_one(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VIRTUAL_ENV", "/active")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "muloco.py").touch()
    cluster = Cluster("site", Profile.model_validate(SITE))
    asked = generate.Asked("config/muloco.py", job_name=kind, **KINDS[kind])
    text = render(resolve(generate.experiment(asked, cluster), cluster), f"config_{kind}", f"/project/{kind}")
    text = text.replace(str(tmp_path), "/project")
    golden = FOLDER / f"{kind}.golden.sh"
    if request.config.getoption("--bless", default=False):
        FOLDER.mkdir(exist_ok=True)
        golden.write_text(text, encoding="utf-8")
    assert golden.is_file(), f"no {golden}; look at the script, then make bless"
    assert text == golden.read_text(encoding="utf-8")
    found = subprocess.run(["shellcheck", golden], capture_output=True, text=True)
    assert not found.stdout, found.stdout
