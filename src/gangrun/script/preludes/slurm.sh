# shellcheck shell=bash disable=SC2034,SC2154,SC2329
# Under Slurm: a replica is a step, started by srun.
declare -A BEAT BEAT_AT
NEXT_LOOK=0 GPUS_ARE_HELD=''

# allocation NODES: sets HOSTS, JOB, PORT_SEED, and TASK to what `bash -c` needs to run `task` on a node.
allocation() {
  JOB=$SLURM_JOB_ID PORT_SEED=$SLURM_JOB_ID
  mapfile -t HOSTS < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
  TASK="$(declare -f enter task beat sweep still_wanted); enter \"\$@\""
  # Until 21.08 steps that overlap shared CPUs and never GPUs: there each has to ask for the number that it needs.
  [[ -z ${SLURM_JOB_GPUS:-} || $(scontrol --version) != *' 20.'* ]] || GPUS_ARE_HELD=yes
  # srun takes these for its own flags. Some it refuses beside ours (26.05: --gpus-per-node with --gres), others it
  # would obey: --export=NONE of the job, the CPU binding of the shell from which the job was submitted.
  unset "${!SLURM_GPU@}" "${!SLURM_MEM_@}" "${!SLURM_CPU_BIND@}" "${!SLURM_CPUS_PER@}" "${!SLURM_NTASKS@}" \
    "${!SLURM_TRES_PER@}" "${!SRUN_@}" SLURM_GRES SLURM_GRES_FLAGS SLURM_NPROCS SLURM_DISTRIBUTION SLURM_HOSTFILE \
    SLURM_HINT SLURM_THREADS_PER_CORE SLURM_EXPORT_ENV SLURM_EXACT SLURM_EXCLUSIVE SLURM_STEP_ID SLURM_STEPID
}

# on HOST[,HOST...] FUNCTION [ARGUMENT...]: runs one of ours there beside all else, for 10 s at most.
on() {
  local more=${1//[^,]/}
  aside timeout -k 2 10 srun --overlap ${GPUS_ARE_HELD:+--gres=gpu:0} -N "$((${#more} + 1))" -n "$((${#more} + 1))" -c 1 --mem=0 -w "$1" --chdir=/ \
    bash -c "$(declare -f unused sweep inhabited); \"\$@\"" - "${@:2}"
}

# ports_free BASE CHECKS: whether every NODE:OFFSET is free; node 0 is this one, the others cost a step.
ports_free() {
  local check here=() there=() hosts=''
  for check in ${2//,/ }; do
    if [[ $check == 0:* ]]; then
      here+=("$(($1 + ${check#*:}))")
    else
      there+=("$(($1 + ${check#*:}))")
      [[ ,$hosts, == *",${HOSTS[${check%:*}]},"* ]] || hosts+=${hosts:+,}${HOSTS[${check%:*}]}
    fi
  done
  unused "${here[@]}" && { [[ -z $hosts ]] || on "$hosts" unused "${there[@]}"; }
}

# step [FLAGS...] -- COMMAND...: runs one life of the replica that `life` describes and returns when all of it has ended.
step() {
  local node hosts='' count=0 per=${node_cpus:-$cpus} share_flags=() held
  for node in $nodes; do hosts+=,${HOSTS[node]} count=$((count + 1)); done
  [[ -z $per ]] || share_flags+=(-c "$((per / tasks > 0 ? per / tasks : 1))")
  # Of steps that overlap each is given the first cores of the node: so all ask for all of them, and are not bound.
  ((alone)) || share_flags+=(--cpu-bind=none)
  IFS=, read -ra held <<<"$gpus"
  [[ -z $GPUS_ARE_HELD ]] || share_flags+=(--gres=gpu:"${#held[@]}")
  : >"$STATUS/$name.step"
  srun --job-name="$name" --overlap -N "$count" -n "$((count * tasks))" --ntasks-per-node="$tasks" -w "${hosts#,}" \
    --mem=0 --export=ALL --input=none --kill-on-bad-exit=1 "${share_flags[@]}" "${@:1:flags}" \
    bash -c "$TASK" - "$name" "$gpus" "$share" "$address" "$master" "${@:flags+2}" \
    >>"$LOGS/$name.log" 2>>"$LOGS/$name.step.log" || return
  ended_everywhere # as srun returns 0 also when a node has died
}

# What a step runs in each of its tasks.
enter() {
  local BEAT_EVERY=5 rank=$SLURM_PROCID local_rank=$SLURM_LOCALID world=$SLURM_NTASKS node_rank=$SLURM_NODEID
  task "$@"
}

# Slurm itself ends what a dead script leaves.
still_wanted() { :; }

# Whether the first task of every node has written its `exit`, which may take a moment to arrive through NFS.
ended_everywhere() {
  local node k=0 word try
  for node in $nodes; do
    for try in {1..10}; do
      word=''
      read -r word _ <"$STATUS/$name.$k.beat"
      [[ $word != exit ]] || break
      sleep 0.5
    done
    if [[ $word != exit ]]; then
      note "$name" "lost ${HOSTS[node]}"
      return 1
    fi
    ((++k))
  done
}

# Nodes die without anyone telling (measured: 4 minutes), so a beat that stands still for 20 s is reason to ask.
listen() {
  local name node key k beat line fresh='' silent=()
  ((SECONDS >= NEXT_LOOK)) || return 0
  NEXT_LOOK=$((SECONDS + 5))
  for name in "${NAMES[@]}"; do
    [[ ${KIND[$name]} != sidecar ]] || continue
    running "$name" || continue
    k=0
    for node in ${NODES[$name]//,/ }; do
      key=$name.$k beat=''
      ((++k))
      { read -r beat <"$STATUS/$key.beat"; } 2>/dev/null # it may not have come so far
      [[ -n $beat && $beat != exit* ]] || continue
      [[ $beat == "${BEAT[$key]:-}" ]] || BEAT[$key]=$beat BEAT_AT[$key]=$SECONDS
      if ((SECONDS - ${BEAT_AT[$key]} < 20)); then fresh=yes; else silent+=("$name $node $key"); fi
    done
  done
  # If this node's own stand still and no other moves, it is the file system and not the nodes.
  [[ -n $fresh || "${silent[*]}" != *' 0 '* ]] || return 0
  for line in "${silent[@]}"; do
    read -r name node key <<<"$line"
    on "${HOSTS[node]}" inhabited "$JOB/$ATTEMPT/$name/"
    case $? in
      0) BEAT_AT[$key]=$SECONDS ;;                              # it is only slow
      3) ((SECONDS - ${BEAT_AT[$key]} < 120)) || lose "$name" "$node" ;; # gone, of which srun should have told
      *) ! on "${HOSTS[0]}" true || lose "$name" "$node" ;;     # no answer, and Slurm itself is well
    esac
    obey # a signal may have ended the asking
  done
}

lose() {
  obey
  note "$1" "lost ${HOSTS[$2]}"
  end "lost ${HOSTS[$2]} $1" 1
}

inhabited() { grep -qlzF "GANGRUN_TASK=$1" /proc/[0-9]*/environ 2>/dev/null || exit 3; }

# ask SIGNAL NAME...: through slurmctld, as srun knows no grace: whatever ends it makes it kill its tasks at once.
ask() {
  local name step steps=()
  for name in "${@:2}"; do
    step=''
    read -r step <"$STATUS/$name.step"
    if [[ -n $step ]]; then
      steps+=("$step")
    elif [[ $1 == TERM ]]; then
      force "$name" # there is nothing yet that could be asked
    fi
  done
  ((${#steps[@]} == 0)) || aside timeout 20 scancel --signal="$1" "${steps[@]}"
}

force() {
  local name
  for name; do kill -TERM -- "-${PROCESS[$name]}"; done
}

# Where Slurm tracks processes by their parents (proctrack/linuxproc), a daemon that was orphaned outlives its step.
sweep_everywhere() {
  local host hosts=''
  for host in "${HOSTS[@]}"; do [[ $CAUSE == "lost $host "* ]] || hosts+=,$host; done
  [[ -z $hosts ]] || on "${hosts#,}" sweep "$JOB/$ATTEMPT/"
}
