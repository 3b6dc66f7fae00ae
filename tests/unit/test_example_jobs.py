"""The job script of examples/muloco: what its loops and tables come to."""

from __future__ import annotations

from pathlib import Path

from gangrun import clusters
from gangrun.spec.load import load
from gangrun.sweeps import SweepPlan, plan_of

JOBS = Path(__file__).parents[2] / "examples" / "muloco" / "jobs" / "scaling.py"


def test_every_job_has_its_steps_decay_batch_and_parallelism() -> None:
    experiment = load(JOBS)
    planned = plan_of(experiment, clusters.named("slurm", experiment.project))
    assert isinstance(planned, SweepPlan)
    assert (planned.mode, planned.max_nodes, len(planned.items)) == ("jobs", 8, 40)
    known = {one.item.name: one for one in planned.items}
    small = known["w1024_muon_k16_gbs256_lr0.03125"].item.values
    assert (small["steps"], small["decay"], small["batch"], small["local"]) == (16320, 0.1, 16, 16)
    large = known["w2048_adamw_k4_gbs1024_lr0.004"]
    assert (large.item.values["replicate"], large.item.values["shard"], large.item.values["local"]) == (1, 4, 16)
    groups = [replica for replica in large.plan.replicas if replica.role == "main"]
    assert len(groups) == 4
    words = ["".join(map(str, word.parts)) for word in groups[3].argv]
    assert "fault_tolerance.replica_id=3" in words
    assert "training.global_batch_size=256" in words
    assert "parallelism.data_parallel_shard_degree=4" in words


def test_it_is_shorter_than_one_that_calls_a_generator() -> None:
    # The minimal example of MuLoCo's documentation, one loop and no table, takes 31 lines.
    code = [line for line in JOBS.read_text(encoding="utf-8").splitlines() if line.strip()]
    assert len(code) <= 36
