#!/usr/bin/bash

source slurm/init.sh

export TRAINING_CONFIG="$TRAINING_CONFIG lr=0.1 width=64"

train --cpus-per-task=4 --time=0-01:00:00
