# shellcheck shell=bash disable=SC2034,SC2154,SC2329
# Under Slurm: a replica is a step, started by srun.
declare -A SEEN SEEN_AT
NEXT_LOOK=0 GPUS_ARE_HELD=''
LIMIT=0 NEXT_CLOCK=0 # when the job's time is over and when that is looked at again, as `SECONDS`; 0 for never

# allocation NODES: sets HOSTS, JOB, PORT_SEED, and writes what the nodes run in each task.
allocation() {
  JOB=$SLURM_JOB_ID PORT_SEED=$SLURM_JOB_ID
  mapfile -t HOSTS < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
  # A file and not a word after `bash -c`, which whoever looks at `ps` or `sacct` would have to read through.
  { declare -f enter task has beat guard sweep still_wanted && echo 'enter "$@"'; } >"$ATTEMPT_DIR/task.sh"
  # Before 21.08 steps that overlap share CPUs but no GPUs: there each has to ask for the number that it needs.
  [[ -z ${SLURM_JOB_GPUS:-} || $(scontrol --version) != *' 20.'* ]] || GPUS_ARE_HELD=yes
  # srun takes these for its own flags. Some it refuses beside ours (26.05: --gpus-per-node with --gres), others it
  # would obey: --export=NONE of the job, the CPU binding of the shell from which the job was submitted.
  unset "${!SLURM_GPU@}" "${!SLURM_MEM_@}" "${!SLURM_CPU_BIND@}" "${!SLURM_CPUS_PER@}" "${!SLURM_NTASKS@}" \
    "${!SLURM_TRES_PER@}" "${!SRUN_@}" SLURM_GRES SLURM_GRES_FLAGS SLURM_NPROCS SLURM_DISTRIBUTION SLURM_HOSTFILE \
    SLURM_HINT SLURM_THREADS_PER_CORE SLURM_EXPORT_ENV SLURM_EXACT SLURM_EXCLUSIVE SLURM_STEP_ID SLURM_STEPID
}

# requeue KEY=VALUE...: has the run go on as its next attempt, see node/requeue.py. `before` seconds before the time
# limit the program is warned by a file, and if there is a `signal` by that, too.
requeue() {
  REQUEUE=("$@")
  export GANGRUN_WARNING=$STATUS/run.warning
  of_requeue begin || end requeue 1
  if LIMIT=$(of_requeue left); then ((LIMIT += SECONDS)); else LIMIT=0; fi
}

of_requeue() { python3 "$RUN_DIR/node/requeue.py" "$1" "$RUN_DIR" "$ATTEMPT" "$RUN_NAME" "${REQUEUE[@]}"; }

queue_again() { ((${#REQUEUE[@]} == 0)) || of_requeue end; }

# Warns the program when its time is nearly over, and then ends the attempt while there is time to end it well.
watch_clock() {
  local before=0 signal='' limit=0 key left
  ((LIMIT && SECONDS >= NEXT_CLOCK)) || return 0
  for key in "${REQUEUE[@]}"; do [[ $key != @(before|signal|limit)=* ]] || local "$key"; done
  if ((LIMIT - SECONDS <= before)); then
    left=$(of_requeue left) && LIMIT=$((SECONDS + left)) # which may have been changed meanwhile
  fi
  NEXT_CLOCK=$((LIMIT - before))
  ((SECONDS >= NEXT_CLOCK)) || return 0
  if [[ ! -e $GANGRUN_WARNING ]]; then
    say "$((LIMIT - SECONDS)) s are left"
    record run.warning "$((LIMIT - SECONDS))"
    RELAY=$signal
  fi
  ((limit)) || { LIMIT=0 && return 0; }
  GOES_ON=yes NEXT_CLOCK=$((LIMIT - 2 * GRACE - 15))
  ((SECONDS < NEXT_CLOCK)) || end limit 143
}

# on 'HOST...' FUNCTION [ARGUMENT...]: runs one of ours there beside all else, for 10 s at most.
on() {
  local there
  read -ra there <<<"$1"
  aside timeout -k 2 10 srun --overlap ${GPUS_ARE_HELD:+--gres=gpu:0} --mem=0 -c 1 -N "${#there[@]}" -n "${#there[@]}" \
    -w "${1// /,}" --chdir=/ bash -c "$(declare -f unused sweep inhabited); \"\$@\"" - "${@:2}"
}

# ports_free BASE CHECKS: whether every NODE:OFFSET is free. Node 0 is this one; the others, taken together, cost a step.
ports_free() {
  local check here=() others=()
  for check in ${2//,/ }; do
    if [[ $check == 0:* ]]; then here+=("$(($1 + ${check#*:}))"); else others+=("$(($1 + ${check#*:}))"); fi
  done
  unused "${here[@]}" && { ((${#others[@]} == 0)) || on "${HOSTS[*]:1}" unused "${others[@]}"; }
}

# step [FLAGS...] -- COMMAND...: one life of a replica, as `start` describes it, until all of it has ended.
step() {
  local node hosts='' per=${node_cpus:-$cpus} extra=() held previous='' line
  # Slurm begins one step after another: what is watched goes first. Bash remarks on a sleep that is killed.
  [[ $name != _* ]] || { sleep 0.2; [[ -z $stopping ]]; } 2>/dev/null || return 0
  for node in "${nodes[@]}"; do hosts+=,${HOSTS[node]}; done
  [[ -z $per ]] || extra+=(-c "$((per / tasks > 0 ? per / tasks : 1))")
  # Of steps that overlap each is given the first cores of the node: so all ask for all of them, and are not bound.
  ((alone)) || extra+=(--cpu-bind=none)
  IFS=, read -ra held <<<"$gpus"
  [[ -z $GPUS_ARE_HELD ]] || extra+=(--gres=gpu:"${#held[@]}")
  # A step lives on when its srun is killed, and then must not meet its successor.
  [[ ! -s $STATUS/$name.step ]] || { read -r previous <"$STATUS/$name.step" && aside timeout 20 scancel "$previous"; }
  : >"$STATUS/$name.step"
  srun --job-name="$name" --overlap -N "${#nodes[@]}" -n "$((${#nodes[@]} * tasks))" --ntasks-per-node="$tasks" \
    -w "${hosts#,}" --mem=0 --export=ALL --input=none --kill-on-bad-exit=1 "${extra[@]}" "${@:1:flags}" \
    bash "$ATTEMPT_DIR/task.sh" "$name" "$gpus" "$share" "$threads" "$address" "$master" "$parts" "${@:flags+2}" \
    >>"$LOGS/$name.log" 2>>"$LOGS/$name.step.log"
  code=$?
  # When a node dies srun may say so, and may return 0 all the same.
  while read -r line; do [[ $line != *'Node failure on '* ]] || lost=${line##*Node failure on }; done <"$LOGS/$name.step.log"
  ((code)) || ended_everywhere || code=1
  [[ -z $lost ]] || note "$name" "lost $lost"
  return "$code"
}

# What a step runs in each of its tasks; the number of a step is known only here.
enter() {
  local BEAT_EVERY=5 rank=$SLURM_PROCID local_rank=$SLURM_LOCALID world=$SLURM_NTASKS node_rank=$SLURM_NODEID life=$SLURM_STEP_ID
  ((rank)) || echo "$SLURM_JOB_ID.$SLURM_STEP_ID" >"$GANGRUN_RUN_DIR/attempts/$GANGRUN_ATTEMPT/status/$1.step"
  [[ -z $3 ]] || export SLURM_CPUS_PER_TASK=$3
  task "$@"
}

# Whether the first task of every node has written its `exit`, which may take a moment to arrive through NFS.
ended_everywhere() {
  local node word try
  for node in "${!nodes[@]}"; do
    for try in {1..10}; do
      word=''
      read -r word _ <"$STATUS/$name.$node.beat"
      [[ $word != exit ]] || continue 2
      sleep 0.5
    done
    [[ -z $word ]] || lost=${lost:-${HOSTS[nodes[node]]}} # a node that dies leaves its last beat, a full disk nothing
    return 1
  done
}

still_wanted() { :; } # Slurm itself ends what a dead script leaves

# Nodes die without anyone telling (measured: 4 minutes), so a beat that stands still for 20 s is reason to ask.
listen() {
  local name host key k beat fresh='' silent=() entry gone=''
  ((SECONDS >= NEXT_LOOK)) || return 0
  NEXT_LOOK=$((SECONDS + 5))
  for name in "${NAMES[@]}"; do
    [[ ${KIND[$name]} != sidecar && -n ${PROCESS[$name]} ]] || continue
    k=0
    for host in ${NODES[$name]}; do
      key=$name.$k beat=''
      ((++k))
      { read -r beat <"$STATUS/$key.beat"; } 2>/dev/null # it may not be there yet
      [[ -n $beat && $beat != exit* ]] || continue
      [[ $beat == "${SEEN[$key]:-}" ]] || SEEN[$key]=$beat SEEN_AT[$key]=$SECONDS
      if ((SECONDS - ${SEEN_AT[$key]} < 20)); then fresh=yes; else silent+=("$name $host $key"); fi
    done
  done
  # If this node's own stand still and no other moves, it is the file system and not the nodes.
  [[ -n $fresh || "${silent[*]}" != *" ${HOSTS[0]} "* ]] || return 0
  for entry in "${silent[@]}"; do
    read -r name host key <<<"$entry"
    [[ $name != "$gone" ]] || continue # with the first of its nodes
    [[ -z ${LOST[$host]:-} ]] || { lose "$name" "$host" && continue; }
    on "$host" inhabited "$RUN_NAME/$JOB/$ATTEMPT/$name/"
    case $? in
      0) SEEN_AT[$key]=$SECONDS ;;                                       # there, and slow
      3) ((SECONDS - ${SEEN_AT[$key]} < 120)) || lose "$name" "$host" ;; # gone, and srun should have told us
      *) ! on "${HOSTS[0]}" true || lose "$name" "$host" ;;              # no answer, though Slurm itself is well
    esac
    obey # it may have been a signal that ended the asking
  done
}

inhabited() { grep -qlzF "GANGRUN_TASK=$1" /proc/[0-9]*/environ 2>/dev/null || exit 3; }

# lose NAME HOST: ends the job, or else what waits for that host here and what is left of the replica elsewhere.
lose() {
  local step=''
  obey
  note "$1" "lost $2"
  LOST[$2]=yes gone=$1
  ((${SPARE[${1%.*}]} || (${RESTARTS[$1]} && ${#SPARE_NODES[@]}))) || end "lost $2 $1" 1
  read -r step <"$STATUS/$1.step"
  kill -KILL -- "-${PROCESS[$1]}"
  wait "${PROCESS[$1]}" 2>/dev/null
  [[ -z $step ]] || aside timeout 20 scancel "$step"
  bury "$1"
}

# ask SIGNAL NAME...: through slurmctld, as srun knows no grace: whatever ends it makes it kill its tasks at once.
ask() {
  local name step steps=()
  for name in "${@:2}"; do
    step=''
    [[ $1 != TERM ]] || kill -TERM "${PROCESS[$name]}" 2>/dev/null # no further life
    { read -r step <"$STATUS/$name.step"; } 2>/dev/null # it may not be there yet
    if [[ -n $step ]]; then steps+=("$step"); elif [[ $1 == TERM ]]; then force "$name"; else kill "-$1" "${PROCESS[$name]}" 2>/dev/null; fi
  done
  ((${#steps[@]} == 0)) || aside timeout 20 scancel --signal="$1" "${steps[@]}"
}

force() {
  local name
  for name; do kill -TERM -- "-${PROCESS[$name]}" 2>/dev/null; done
}

# Where Slurm tracks processes by their parents (proctrack/linuxproc), a daemon that was orphaned outlives its step.
sweep_everywhere() {
  local host hosts=''
  for host in "${HOSTS[@]}"; do [[ -n ${LOST[$host]:-} ]] || hosts+=" $host"; done
  [[ -z $hosts ]] || on "${hosts# }" sweep "$RUN_NAME/$JOB/$ATTEMPT/"
}
