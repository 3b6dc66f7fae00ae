#!/usr/bin/bash

source slurm/init.sh

export TRAINING_CONFIG="$TRAINING_CONFIG task=pretrain lr=0.1"

train --cpus-per-task=1 --time=0-00:05:00
