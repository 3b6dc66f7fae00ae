#!/usr/bin/env bash
# Sourced by the scripts of slurm/experiments/: gives them names for their run, a function for each file in jobs/, and
# the project's root as the current folder.
set -e
shopt -s globstar
command -v gangrun >/dev/null || { echo "slurm/init.sh: gangrun is not on PATH" >&2 && exit 127; }
gangrun_lines=$(gangrun bash -- "$0")
eval "$gangrun_lines"
