"""A sweep over models, optimizers, batches, learning rates and numbers of groups: gangrun submit scaling.py"""

from gangrun import load

STEPS = {"w1024": {256: 16320, 512: 8160, 1024: 4080}, "w2048": {512: 32640, 1024: 16320}}
DECAY = {"w1024": {"adamw": 0.1, "muon": 0.2}, "w2048": {"adamw": 0.05, "muon": 0.1}}  # at a batch of 512
LOCAL = {"w1024": 16, "w2048": 8}  # sequences that a GPU has room for
FITS = {"w1024": True, "w2048": False}  # whether a GPU has room for the model; else it is sharded
RATES = {"adamw": (0.004, 0.002), "muon": (0.03125, 0.015625)}


def experiments():
    base = load("base.toml")
    gpus = base.spec.allocation.nodes * base.spec.allocation.gpus
    for flavor, by_batch in STEPS.items():
        for batch, steps in by_batch.items():
            for optimizer, rates in RATES.items():
                for lr in rates:
                    for groups in (4, 16):
                        ranks = gpus // groups
                        yield base.vary(
                            {"roles.main.replicas": groups},
                            name=f"{flavor}_{optimizer}_k{groups}_gbs{batch}_lr{lr}",
                            flavor=flavor,
                            optimizer=optimizer,
                            lr=lr,
                            decay=DECAY[flavor][optimizer] * by_batch[512] / steps,
                            steps=steps,
                            batch=batch // groups,
                            local=min(batch // gpus, LOCAL[flavor] * 2),
                            replicate=ranks if FITS[flavor] else 1,
                            shard=1 if FITS[flavor] else ranks,
                        )
