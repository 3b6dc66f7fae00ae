"""Other front doors than the experiment file, one module each: what they read ends in an `Experiment`.

A recipe hands its values to `gangrun.spec.load.experiment_of` with the place of each, and the experiment goes the same
way as any: resolved, rendered, recorded, sent.
"""
