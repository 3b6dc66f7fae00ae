"""A pool inside its job: one driver that hands items to the agents of the nodes.

On a node this package lies in `{run.dir}/node` and is run as `python3 {run.dir}/node/pool drive` and `… work`.
"""
