# shellcheck shell=bash disable=SC2034,SC2154,SC2329
# A job script that somebody wrote, under Slurm: it runs on the batch host as it would have run by itself.
GIVEN=() GIVEN_GPUS=${SLURM_GPUS_ON_NODE:-0} GIVEN_MEMORY=${SLURM_MEM_PER_NODE:-} # before `begin` tidies up for steps
while IFS= read -r -d '' pair; do GIVEN+=("$pair"); done < <(env -0)

# written COMMAND...: the job script as the only main.
written() {
  NAMES+=(main.0) KIND[main.0]=main RESTARTS[main.0]=0 SPARE[main]=0 NODES[main.0]=" ${HOSTS[0]}"
  ((++MAINS))
  as_written "$@" </dev/null &
  PROCESS[main.0]=$!
}

# Its output goes where it says and the record links to that, or else into the record. Signals reach it as they would
# reach the batch script of a job: USR1 and USR2 itself, TERM all in its group.
as_written() {
  local program code signal output
  for signal in USR1 USR2; do
    # shellcheck disable=SC2064 # the name of the signal is known now
    trap "kill -$signal \"\$program\" 2>/dev/null" "$signal"
  done
  trap : HUP INT TERM
  if [[ /proc/$$/fd/1 -ef $RUN_DIR/job.log ]]; then
    if [[ /proc/$$/fd/1 -ef /proc/$$/fd/2 ]]; then exec >>"$LOGS/main.0.log" 2>&1; else exec >>"$LOGS/main.0.log"; fi
  elif output=$(readlink "/proc/$$/fd/1") && [[ -f $output ]]; then
    ln -sfn -- "$output" "$LOGS/main.0.log"
    ln -sfn -- "$output" "$RUN_DIR/job.log"
  fi
  note main.0 start
  env -i "${GIVEN[@]}" SLURM_JOB_NAME="$JOB_NAME" GANGRUN_RUN_NAME="$RUN_NAME" GANGRUN_RUN_DIR="$RUN_DIR" \
    GANGRUN_JOB="$JOB" GANGRUN_ATTEMPT="$ATTEMPT" GANGRUN_REPLICA=main.0 \
    GANGRUN_TASK="$RUN_NAME/$JOB/$ATTEMPT/main.0/0/" "$@" &
  program=$!
  while kill -0 "$program" 2>/dev/null; do wait "$program"; done # a signal ends a wait, too
  wait "$program"
  code=$?
  note main.0 "exit $code"
}

# Every node of the job, by number.
all_nodes() { seq -s , 0 "$((${#HOSTS[@]} - 1))"; }
