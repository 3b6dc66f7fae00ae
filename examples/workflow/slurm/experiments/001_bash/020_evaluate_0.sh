#!/usr/bin/bash

source slurm/init.sh

load "010_posttrain_$EXPERIMENT_SEED"

evaluate --time=0-00:02:00
