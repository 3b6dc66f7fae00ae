"""Stands for a configuration of torchtitan, which this example does not bring along."""
