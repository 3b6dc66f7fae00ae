#!/usr/bin/bash

source slurm/init.sh

posttrain "000_pretrain_$EXPERIMENT_SEED"
export TRAINING_CONFIG="$TRAINING_CONFIG task=posttrain lr=0.05"

train --cpus-per-task=1 --time=0-00:05:00
