# shellcheck shell=bash disable=SC2034,SC2154,SC2329
# Without a scheduler: this machine plays every node, and a step is a set of plain processes.
BEAT_EVERY=1

# allocation NODES: sets HOSTS, JOB, PORT_SEED, and GPUS to the devices that this machine has, or may use.
allocation() {
  local line fields device
  read -r line <"/proc/$$/stat"
  read -ra fields <<<"${line##*) }"
  JOB=local-$$-${fields[19]} # with its start time, as process ids come round again
  PORT_SEED=$$
  GPUS=()
  while ((${#HOSTS[@]} < $1)); do HOSTS+=(127.0.0.1); done
  if [[ -n ${CUDA_VISIBLE_DEVICES:-} ]]; then
    IFS=, read -ra GPUS <<<"$CUDA_VISIBLE_DEVICES"
  else
    for device in /dev/nvidia[0-9]*; do [[ ! -e $device ]] || GPUS+=("${#GPUS[@]}"); done
  fi
  # Within a job that holds devices these are ours already, and its own locks would be waited for without end.
  ((${#GPUS[@]} == 0 || NODE_GPUS == 0)) || [[ -n ${SLURM_JOB_ID:-}${GANGRUN_HOLDS:-} ]] || hold "$(($1 * NODE_GPUS))"
  GPUS_PER_NODE=$((${#GPUS[@]} / $1))
}

# hold COUNT: leaves in GPUS as many as are needed and no other run holds, and waits until there are. A lock ends with
# the last process that has inherited it, so none can be left behind.
hold() {
  local folder=/tmp/gangrun-gpus all=("${GPUS[@]}") locks gpu lock told=''
  if ((${#all[@]} < $1)); then
    say "the plan needs $1 GPUs, this machine has ${#all[@]}"
    end 'setup 1' 1
  fi
  export GANGRUN_HOLDS=$1
  [[ -d $folder ]] || (umask 0 && mkdir -m 1777 -- "$folder") # for every user of this machine
  while :; do
    GPUS=() locks=()
    for gpu in "${all[@]}"; do
      ((${#GPUS[@]} < $1)) || return 0
      (umask 0 && : >>"$folder/$gpu")
      exec {lock}<"$folder/$gpu"
      if flock -n "$lock"; then GPUS+=("$gpu") locks+=("$lock"); else exec {lock}<&-; fi
    done
    ((${#GPUS[@]} < $1)) || return 0
    for lock in "${locks[@]}"; do exec {lock}<&-; done
    [[ -n $told ]] || say "waiting for $1 GPUs: ${#GPUS[@]} of ${#all[@]} are free"
    told=yes
    obey
    pause 1
  done
}

# needs ATTEMPT_DIR...: waits until these attempts of other runs, or later ones, have ended well; else ends this run.
needs() {
  local other latest code start fields
  for other; do
    code='' start=()
    until latest=$(readlink "${other%/*}/latest") && [[ ! $latest < ${other##*/} ]] && other=${other%/*}/$latest &&
      { read -r code <"$other/status/run.exit"; } 2>/dev/null; do
      # One that was killed writes nothing: does the process live that is in its job's id?
      { mapfile -t start <"$other/status/run.start"; } 2>/dev/null || start=() # it has not begun
      IFS=- read -ra fields <<<"${start[1]:-}"
      if ((${#fields[@]})) && ! alive "${fields[@]:1}"; then
        { read -r code <"$other/status/run.exit"; } 2>/dev/null || code=137 # its exit may have come since we looked
        break
      fi
      pause 1 || : # `setup` would end at a signal
      obey
    done
    ((code == 0)) || { say "what this run needs ended with $code: ${other%/attempts/*}" && end "needs $code" 1; }
  done
}

# alive PID TICKS: whether the process that started then still runs.
alive() {
  local line fields
  { read -r line <"/proc/$1/stat"; } 2>/dev/null || return 1
  read -ra fields <<<"${line##*) }"
  [[ ${fields[0]} != Z && ${fields[19]} == "$2" ]]
}

# ports_free BASE CHECKS: whether every NODE:OFFSET is free; all nodes are this machine.
ports_free() {
  local check ports=()
  for check in ${2//,/ }; do ports+=("$(($1 + ${check#*:}))"); done
  unused "${ports[@]}"
}

# step [FLAGS...] -- COMMAND...: one life of a replica, as `start` describes it, until all of it has ended.
step() {
  local node_rank=-1 local_rank rank=0 world=$((${#nodes[@]} * tasks)) groups=() children=() words='' signal deadline='' node beat ended worst=0
  shift "$((flags + 1))" # they are for srun
  ((++life))
  set -m
  trap "stopping=yes words+=' TERM'" TERM
  trap "stopping=yes words+=' HUP'" HUP
  trap "words+=' USR1'" USR1
  trap "words+=' USR2'" USR2
  for node in "${nodes[@]}"; do
    ((++node_rank))
    ((GPUS_PER_NODE == 0)) || printf -v CUDA_VISIBLE_DEVICES '%s,' "${GPUS[@]:node*GPUS_PER_NODE:GPUS_PER_NODE}"
    CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES%,}
    for ((local_rank = 0; local_rank < tasks; local_rank++, rank++)); do
      task "$name" "$gpus" "$share" "$threads" "$address" "$master" "$parts" "$@" >>"$LOGS/$name.log" 2>&1 &
      children+=("$!") groups+=("-$!")
    done
  done
  # Not the groups, in which an orphan stays as a zombie while the first process of a container collects none.
  while kill -0 "${children[@]}" 2>/dev/null; do
    for signal in $words; do
      words=''
      if [[ $signal == HUP ]]; then # from `force`; the programs first, so that `task` can write down their end
        sweep "$RUN_NAME/$JOB/$ATTEMPT/$name/"
        pause 0.5
        signal=KILL
      fi
      kill "-$signal" -- "${groups[@]}" 2>/dev/null
    done
    # One task that fails takes the others with it, as with srun.
    if [[ -e $STATUS/$name.first && -z $deadline ]]; then
      deadline=$((SECONDS + GRACE + 1)) words=TERM
    elif [[ -n $deadline ]] && ((SECONDS >= deadline)); then
      words=HUP
    else
      pause 1
    fi
  done
  sweep "$RUN_NAME/$JOB/$ATTEMPT/$name/"
  for node in "${!nodes[@]}"; do
    read -r beat ended <"$STATUS/$name.$node.beat"
    [[ $beat == exit ]] || return 137
    ((worst)) || worst=$ended
  done
  # On a full disk `first` is there but empty.
  [[ $worst != 0 || ! -e $STATUS/$name.first ]] || worst=1
  return "$worst"
}

# Nodes do not get lost here, nothing is queued, and no limit is near.
listen() { :; }
watch_clock() { :; }
queue_again() { :; }

# ask SIGNAL NAME...
ask() {
  local name
  for name in "${@:2}"; do kill "-$1" "${PROCESS[$name]}" 2>/dev/null; done
}

force() { ask HUP "$@"; }

sweep_everywhere() { sweep "$RUN_NAME/$JOB/$ATTEMPT/"; }

# Asked at every beat and before every restart: ends all when this script was killed and could not do so itself.
still_wanted() {
  local line=''
  { read -r line <"/proc/$$/stat"; } 2>/dev/null
  [[ -z $line || $line == *') Z '* ]] || return 0
  sweep "$GANGRUN_RUN_NAME/$GANGRUN_JOB/$GANGRUN_ATTEMPT/"
  sleep 1
  kill -KILL 0 # the group of whoever asks
}
