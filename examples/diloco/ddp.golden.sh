#!/usr/bin/env bash
#SBATCH --job-name=diloco_ddp_261121_090000
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gres=gpu:2
#SBATCH --cpus-per-task=3
#SBATCH --time=00:10:00
#SBATCH --comment=diloco_ddp_261121_090000
#SBATCH --output=/project/outputs/diloco_ddp_261121_090000/job.log
#SBATCH --open-mode=append
# Run diloco_ddp_261121_090000, written by gangrun 0.1.0. Self-contained: needs bash 4.3 and nothing of gangrun.
# shellcheck disable=SC1091,SC2016,SC2034,SC2329  # sourced files are elsewhere; quoted words are literal; parts of the prelude go unused
RUN_NAME='diloco_ddp_261121_090000'
RUN_DIR=${GANGRUN_RUN_DIR:-/project/outputs/diloco_ddp_261121_090000}
FIRST_ATTEMPT=1
NODE_GPUS=2 # on each node
GRACE=30 # seconds between asking a replica to stop and making it

# Runs once, before anything starts; the first failing line ends the job.
setup() {
  cd -- /project/examples/diloco || end workdir 1
}

# The roles of this run, one line for each replica, in the order in which they start.
roles() {
  start main 0 main nodes=0,1 gpus=0,1 cpus=3 threads=1 -- \
    torchrun --nnodes=2 --rdzv-backend=c10d "--rdzv-endpoint=${HOSTS[0]}:${PORTS[0]}" "--rdzv-id=${JOB}.${ATTEMPT}.main.0" --nproc-per-node=2 ddp.py --optimizer muon --seed 0 --out "${RUN_DIR}/checkpoints"
  start _monitor 0 sidecar nodes=0,1 alone=0 node_cpus=3 flags=1 --kill-on-bad-exit=0 -- \
    python3 -IS "${RUN_DIR}/node/monitor.py" every=15 gpus=2 cpus=3
}

# ---- prelude: how replicas start, stop and are watched; the same in every script
# shellcheck shell=bash disable=SC2034,SC2154,SC2329 # each half uses what the other one sets
# The verbs of this script: begin, start, ready, await, finish_when_mains_end.
# Each replica is looked after by one background process of this script, `live`, which keeps the replica's diary. The
# script looks which of them are gone, decides by the kind of the replica what that means, and stops the others.
set -m # gives every background process a group of its own, which can be signalled as a whole

HOSTS=() PORTS=()    # for the commands below: hosts in the order of the allocation, port numbers,
declare -A ADDRESSES # and lists of host:port by ROLE.PORT
NAMES=() MAINS=0     # replicas in the order of their start, and how many mains have yet to end
declare -A KIND NODES PROCESS RESTARTS
declare -A SPARE     # by role: how many of its replicas the job can still go on without
declare -A GIVEN_UP  # of these
declare -A LOST      # hosts that are
SPARE_NODES=() ONLY='' # nodes that nobody uses; the one replica that `roles` is to start again
CAUSE='' SIGNAL='' RELAY='' PHASE='' FORCED='' UNSWEPT='' PORT_BASE=''
REQUEUE=() GOES_ON=''  # what `requeue` was given; whether the time limit is so near that a main may end for it

say() { printf 'gangrun: %s\n' "$*" >&2; }

# By rename, so that nobody ever reads half a file; and whatever signal comes, which would end `mv`.
record() (
  trap '' HUP INT TERM USR1 USR2
  printf '%s\n' "$2" >"$STATUS/$1.new" && exec mv -f -- "$STATUS/$1.new" "$STATUS/$1"
)

# One line in a replica's diary.
note() { printf '%(%s)T %s\n' -1 "$2" >>"$STATUS/$1.lives"; }

# Sleeps until the time is up, a child ends or a signal comes: bash runs no trap while a program runs in front.
pause() {
  sleep "$1" >/dev/null 2>&1 &
  wait -n
  # Or it would outlive the job. By KILL, as before its exec it is a copy of this shell, in which any other signal runs
  # `finish` (seen in 12 of 20 short runs: `wait_for: No record of process`); bash remarks on KILL.
  { kill -KILL "$!" && wait "$!"; } 2>/dev/null
}

# Runs a program in such a way that a signal need not wait for it.
aside() {
  "$@" </dev/null >/dev/null 2>&1 &
  wait "$!" 2>/dev/null # where bash would remark that `timeout` was killed
}

# end CAUSE CODE: the rest is done by `finish`, which runs however the script ends.
end() {
  CAUSE=$1
  exit "$2"
}

# --- the verbs -------------------------------------------------------------------------------------------------------

# begin NODES PORTS [CHECKS [SPARE NODES]]: looks at the allocation, makes the attempt's directory, finds ports, runs `setup`.
begin() {
  local number=$((FIRST_ATTEMPT + ${SLURM_RESTART_COUNT:-0}))
  mkdir -p -- "$RUN_DIR/attempts" || exit 1
  # Who makes the directory has the number, should two begin at once.
  while printf -v ATTEMPT %03d "$number" && ! mkdir -- "$RUN_DIR/attempts/$ATTEMPT" 2>/dev/null; do
    [[ -e $RUN_DIR/attempts/$ATTEMPT ]] || { say "cannot make $RUN_DIR/attempts/$ATTEMPT" && exit 1; }
    ((++number))
  done
  ATTEMPT_DIR=$RUN_DIR/attempts/$ATTEMPT
  LOGS=$ATTEMPT_DIR/logs STATUS=$ATTEMPT_DIR/status
  mkdir -- "$LOGS" "$STATUS" || exit 1
  ln -sfn -- "$ATTEMPT" "$RUN_DIR/attempts/latest"
  catch
  allocation "$1"
  export GANGRUN_RUN_NAME=$RUN_NAME GANGRUN_RUN_DIR=$RUN_DIR GANGRUN_JOB=$JOB GANGRUN_ATTEMPT=$ATTEMPT
  export USER="${USER:-$(id -un)}" # unset under cron, and ch-run will not start without it
  ((${#HOSTS[@]} >= $1)) || { say "the plan needs $1 nodes, here are ${#HOSTS[@]}" && end 'setup 1' 1; }
  choose_ports "$2" "${3:-}"
  IFS=, read -ra SPARE_NODES <<<"${4:-}"
  printf '%(%s)T\n%s\n%s\n%s\n' -1 "$JOB" "${HOSTS[*]}" "$PORT_BASE" >"$STATUS/run.start"
  PHASE=setup
  set -e
  setup
  set +eu
  PHASE=''
  catch # again, as setup may have set traps of its own
  obey
}

# Signals only leave word, on which `obey` acts.
catch() {
  trap 'SIGNAL=TERM' TERM
  trap 'SIGNAL=INT' INT
  trap 'SIGNAL=HUP' HUP
  trap 'RELAY=USR1' USR1
  trap 'RELAY=USR2' USR2
  trap finish EXIT
}

# start ROLE INDEX KIND [key=value...] [flags=N and N flags for srun] -- COMMAND...
start() {
  local name=$1.$2 kind=$3 nodes='' gpus='' cpus='' tasks=1 restarts=0 ranks=0 master='' alone=1 node_cpus='' flags=0
  local parts='' threads='' share='' address='' spare=0 node
  [[ -z $ONLY || $ONLY == "$name" ]] || return 0
  shift 3
  until [[ $1 == -- || $flags != 0 ]]; do
    local "$1"
    shift
  done
  ((ranks == 0)) || address=${HOSTS[${nodes%%,*}]}
  [[ -z $cpus ]] || share=$((cpus / tasks > 0 ? cpus / tasks : 1))
  threads=${threads:-$share}
  IFS=, read -ra nodes <<<"$nodes"
  if [[ -z $ONLY ]]; then
    NAMES+=("$name") KIND[$name]=$kind RESTARTS[$name]=$restarts
    [[ -n ${SPARE[${name%.*}]:-} ]] || SPARE[${name%.*}]=$spare
    [[ $kind != main ]] || ((++MAINS))
  fi
  NODES[$name]=''
  for node in "${nodes[@]}"; do NODES[$name]+=" ${HOSTS[node]}"; done
  live "$@" </dev/null &
  PROCESS[$name]=$!
}

# ready NAME port HOST:PORT SECONDS | http URL SECONDS | file PATH SECONDS: waits; too long fails the job.
ready() {
  local name=$1 began=$SECONDS
  [[ -z $ONLY ]] || return 0
  # Under `timeout`, as a dead host lets a connect hang for minutes.
  until if [[ $2 == file ]]; then [[ -e $3 ]]; else aside timeout 5 bash -c "$ANSWERS" - "$2" "$3"; fi; do
    look
    [[ -z ${GIVEN_UP[$name]:-} ]] || return 0
    if [[ -z ${PROCESS[$name]} ]] || ((SECONDS - began >= $4)); then
      say "$name is not ready after $((SECONDS - began)) s: $2 $3"
      end "unready $name $4" 1
    fi
    if ((SECONDS - began < 5)); then pause 0.2; else pause 1; fi
  done
  note "$name" ready
}

# answers port HOST:PORT | http URL: whether a server is there, and says 2xx or 3xx. Nodes may have no curl, but bash.
answers() {
  local server=${2#*://} path=/ code
  [[ $server != */* ]] || path=/${server#*/}
  server=${server%%/*}
  [[ $server == *:* ]] || server+=:80
  exec 3<>"/dev/tcp/${server%:*}/${server##*:}" || return
  [[ $1 == http ]] || return 0
  printf 'GET %s HTTP/1.0\r\nHost: %s\r\n\r\n' "$path" "$server" >&3
  read -r _ code _ <&3 && [[ $code == [23][0-9][0-9]* ]]
}
ANSWERS="$(declare -f answers); answers \"\$@\""

# await NAME: until it has ended with 0; where it fails, so does the job.
await() {
  [[ -z $ONLY ]] || return 0
  while look && [[ -n ${PROCESS[$1]} ]]; do pause 1; done
}

finish_when_mains_end() {
  PHASE=last # no main will be started any more
  while look && ((MAINS)); do pause 1; done
  exit 0
}

# --- ports -----------------------------------------------------------------------------------------------------------

# choose_ports COUNT CHECKS: sets PORTS to a row from 10000-31999, below what the kernel gives to outgoing connections.
choose_ports() {
  local try i
  (($1)) || return 0
  for ((try = 0; try < 50; try++)); do
    PORT_BASE=$((10000 + (PORT_SEED * 101 + try * 1009) % (22000 - $1)))
    ports_free "$PORT_BASE" "$2" || continue
    for ((i = 0; i < $1; i++)); do PORTS+=("$((PORT_BASE + i))"); done
    return 0
  done
  end ports 1
}

# Whether none of these ports is in use on this machine, in whatever state: one that lingers can refuse a server as well.
unused() {
  local table=() port
  mapfile -t table </proc/net/tcp
  [[ ! -r /proc/net/tcp6 ]] || mapfile -t -O "${#table[@]}" table </proc/net/tcp6
  for port; do
    printf -v port ':%04X ' "$port"
    [[ "${table[*]}" != *"$port"* ]] || return 1
  done
}

# --- looking after the replicas --------------------------------------------------------------------------------------

# A replica from its first life to its last, with what `start` has set. Outlives signals sent to all of the job.
live() {
  local code first node stopping='' lost='' life=0
  trap 'stopping=yes' HUP INT TERM
  trap : USR1 USR2
  while :; do
    # Made here before other hosts write them: NFS hides a new file for a minute from a host that looked too early.
    for node in "${!nodes[@]}"; do : >"$STATUS/$name.$node.beat"; done
    note "$name" start
    step "$@"
    code=$?
    # Where one task fails and the others are killed for it, srun may return the code of any of them.
    [[ ! -r $STATUS/$name.first ]] || read -r first _ <"$STATUS/$name.first"
    code=${first:-$code} first=''
    note "$name" "exit $code"
    ((restarts-- > 0)) && [[ -z $lost && ($code != 0 || $kind == service) ]] || return 0
    ((code != 126 && code != 127)) || return 0 # a command that is not there will not be there the next time
    ((code != 143 && code != 137)) || sleep 0.5 # if it was a signal to all of the job, ours may come a little later
    still_wanted && [[ -z $stopping && ! -e $STATUS/run.warning ]] || return 0
    say "$name ended with $code and is started again"
    rm -f -- "$STATUS/$name.first"
  done
}

# One pass: signals, then deaths, then silence. Services come last: one that ends with the last main has done no wrong.
look() {
  local kind name
  obey
  for kind in main sidecar service; do
    [[ $kind != service || $PHASE != last ]] || ((MAINS)) || return 0
    for name in "${NAMES[@]}"; do [[ ${KIND[$name]} != "$kind" ]] || bury "$name"; done
  done
  listen
  watch_clock
}

# Acts on the word that signals have left.
obey() {
  local signal=$RELAY name names=()
  if [[ -n $signal ]]; then
    RELAY=''
    for name in "${NAMES[@]}"; do [[ ${KIND[$name]} != main ]] || ! running "$name" || names+=("$name"); done
    ask "$signal" "${names[@]}"
  fi
  [[ -z $SIGNAL ]] || end "signal $SIGNAL" "$((128 + $(kill -l "$SIGNAL")))"
}

running() { [[ -n ${PROCESS[$1]} ]] && kill -0 "${PROCESS[$1]}" 2>/dev/null; }

# settle NAME: reads from the diary how its last life ended, into `code` and `lost`. Without an entry it was killed.
settle() {
  local word value
  code=137 lost=''
  while read -r _ word value; do
    case $word in
      start) code=137 lost='' ;;
      exit) code=$value ;;
      lost) lost=$value ;;
    esac
  done <"$STATUS/$1.lives"
  PROCESS[$1]=''
  ((code == 0)) || swept "$1" || UNSWEPT=yes
  record "$1.exit" "$code"
}

# Whether the first task of each of its nodes has come to its end: one that was killed has swept after nobody.
swept() {
  local host node=0 word
  for host in ${NODES[$1]}; do
    word=''
    { read -r word _ <"$STATUS/$1.$node.beat"; } 2>/dev/null # it may not be there
    [[ $word == exit ]] || return 1
    ((++node))
  done
}

# If all is over with this replica, draws the consequence of its kind.
bury() {
  local name=$1 kind=${KIND[$1]} code lost
  [[ -n ${PROCESS[$name]} ]] && ! running "$name" || return 0
  settle "$name"
  [[ $kind != sidecar ]] || return 0
  [[ $kind:$code != main:0 ]] || { ((MAINS--)) && return 0; }
  # At a time limit the steps are signalled together with this script, and are not the cause.
  ((code != 143 && code != 137)) || pause 0.5
  obey
  if [[ -n $lost ]]; then
    LOST[$lost]=yes
    move "$name" || give_up "$name" || end "lost $lost $name" 1
    return 0
  fi
  [[ -z $GOES_ON || $kind != main ]] || end limit "$code"
  give_up "$name" || end "$kind $name $code" "$((code ? code : 1))"
}

# give_up NAME: goes on without it, if the job can.
give_up() {
  local role=${1%.*}
  ((${SPARE[$role]} > 0)) || return 1
  SPARE[$role]=$((${SPARE[$role]} - 1)) GIVEN_UP[$1]=yes
  [[ ${KIND[$1]} != main ]] || ((MAINS--))
  note "$1" 'given up'
  say "$1 is given up, and the job goes on with the others"
}

# move NAME: starts it again where spare nodes take the place of those that were lost; not without a `restarts`.
move() {
  local node
  ((${RESTARTS[$1]})) || return 1
  for node in "${!HOSTS[@]}"; do
    [[ -n ${LOST[${HOSTS[node]}]:-} && "${NODES[$1]} " == *" ${HOSTS[node]} "* ]] || continue
    ((${#SPARE_NODES[@]})) || return 1
    say "${HOSTS[SPARE_NODES[0]]} takes the place of ${HOSTS[node]}"
    HOSTS[node]=${HOSTS[SPARE_NODES[0]]}
    SPARE_NODES=("${SPARE_NODES[@]:1}")
  done
  ONLY=$1
  roles
  ONLY=''
}

# --- the end ---------------------------------------------------------------------------------------------------------

finish() {
  local code=$?
  ((BASHPID == $$)) || exit "$code" # a child that is killed between its fork and its exec comes by here, too
  trap - EXIT
  trap '' HUP INT TERM USR1 USR2 # nor do they end what is called here: Slurm may send them to all of a job, and twice
  set +eu
  [[ $PHASE != setup || -n $CAUSE ]] || { CAUSE="setup $code" && code=$((code ? code : 1)); }
  [[ -z $CAUSE ]] || { say "$CAUSE" && record run.cause "$CAUSE"; }
  [[ $CAUSE != signal* ]] || queue_again # first of all, as Slurm leaves little time
  stop main
  stop service sidecar
  [[ -z $FORCED$UNSWEPT ]] || sweep_everywhere
  [[ $CAUSE != limit && $CAUSE != lost* ]] || queue_again
  record run.exit "$code"
  exit "$code"
}

# stop KIND...: asks the replicas of these kinds to end, makes them after GRACE seconds, and gives them up 10 s later.
stop() {
  local name code lost names=() deadline
  for name in "${NAMES[@]}"; do
    [[ " $* " != *" ${KIND[$name]} "* || -z ${PROCESS[$name]} ]] || names+=("$name")
  done
  ((${#names[@]} == 0)) || ask TERM "${names[@]}"
  deadline=$((SECONDS + GRACE + 1)) # one more, as SECONDS counts whole ones
  for name in "${names[@]}"; do
    while running "$name"; do
      if [[ $name == _* ]] && ((SECONDS >= deadline - GRACE + 2)); then
        # Ours has nothing to save, and waits neither for a lost node nor for a controller that is away.
        kill -TERM -- "-${PROCESS[$name]}"
        pause 1
        kill -KILL -- "-${PROCESS[$name]}" 2>/dev/null
      elif ((SECONDS >= deadline)) && [[ $FORCED == "$*" ]]; then
        kill -KILL -- "-${PROCESS[$name]}"
      elif ((SECONDS >= deadline)); then
        FORCED=$* deadline=$((SECONDS + 10))
        force "${names[@]}"
      fi
      pause 0.2
    done
    settle "$name"
  done
}

# --- beside each program, on its own node ----------------------------------------------------------------------------

# task NAME GPUS CPUS THREADS MASTER_ADDR MASTER_PORT PARTS COMMAND...: one process of a replica, whose `rank`,
# `local_rank`, `world` and `node_rank` are set, and `life` to a word that no other life of it has. The command runs in
# front, so that it has the signals and the end that it would have alone.
task() {
  local name=$1 gpus=$2 cpus=$3 threads=$4 address=$5 port=$6 parts=$7
  local status=$GANGRUN_RUN_DIR/attempts/$GANGRUN_ATTEMPT/status
  local token=$GANGRUN_RUN_NAME/$GANGRUN_JOB/$GANGRUN_ATTEMPT/$1/$life/$rank/ stopped='' code variable given wanted picked index pipe='' beat guard
  shift 7
  trap '' HUP INT TERM USR1 USR2 # for these two from their birth
  if ((local_rank == 0)); then
    coproc BEAT { beat "$status/$name.$node_rank.beat"; }
    pipe=${BEAT[1]} beat=$BEAT_PID
  fi
  exec {guard}> >(guard "$token")
  trap 'stopped=yes' TERM
  trap : HUP INT USR1 USR2
  # Bash remarks on a program that a signal ends, which is none of the program's output: hence the outer 2>/dev/null.
  {
    (
      exec 2>&1
      exec {guard}>&-
      # Of the devices that the scheduler gave, by whatever name, those at the replica's indices.
      IFS=, read -ra wanted <<<"$gpus"
      for variable in {CUDA,ROCR,HIP}_VISIBLE_DEVICES ZE_AFFINITY_MASK GPU_DEVICE_ORDINAL; do
        [[ $variable == CUDA* || -n ${!variable:-} ]] || continue
        IFS=, read -ra given <<<"${!variable:-}"
        picked=''
        for index in "${wanted[@]}"; do picked+=,${given[index]:-$index}; done
        ((${#given[@]} && ${#given[@]} == ${#wanted[@]})) || export "$variable=${picked#,}"
      done
      [[ -z $threads ]] || export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$threads}"
      [[ -z $address ]] || export RANK="$rank" LOCAL_RANK="$local_rank" WORLD_SIZE="$world" NODE_RANK="$node_rank" \
        MASTER_ADDR="$address" MASTER_PORT="$port"
      export PYTHONUNBUFFERED="${PYTHONUNBUFFERED-1}" # or a log stays empty until its program ends
      export GANGRUN_REPLICA="$name" GANGRUN_RANK="$rank" GANGRUN_LOCAL_RANK="$local_rank" \
        GANGRUN_WORLD_SIZE="$world" GANGRUN_NODE_RANK="$node_rank" GANGRUN_TASK="$token"
      [[ -z $stopped ]] || exit 143
      [[ -z ${GANGRUN_DEBUG:-} || $name == _* ]] ||
        echo "gangrun: $name rank $rank of $world (local rank $local_rank) on ${SLURMD_NODENAME:-$HOSTNAME}, GPUs ${CUDA_VISIBLE_DEVICES:-none}, CPUs ${share:-any}, pid $BASHPID"
      [[ -z $parts ]] || has "$parts" || exit 125
      exec -- "$@"
    )
  } 2>/dev/null
  code=$?
  # noclobber: only the first task that fails gets to write
  ((code == 0)) || (set -C && printf '%s\n' "$code $rank ${SLURMD_NODENAME:-$HOSTNAME}" >"$status/$name.first") 2>/dev/null
  if sweep "$token"; then
    trap '' PIPE # somebody may have killed it
    { echo swept >&"$guard"; } 2>/dev/null
  fi
  exec {guard}>&-
  if [[ -n $pipe ]]; then
    exec {pipe}>&-
    while kill -0 "$beat" 2>/dev/null; do wait "$beat"; done # a signal ends a wait
    printf 'exit %s\n' "$code" >"$status/$name.$node_rank.beat"
  fi
  return "$code"
}

# has THING:THING...: whether this node has what a container needs, programs by name and paths; says what it has not.
has() {
  local thing things
  IFS=: read -ra things <<<"$1"
  for thing in "${things[@]}"; do
    if [[ $thing == /* ]]; then [[ ! -e $thing ]] || continue; else ! type -P "$thing" >/dev/null || continue; fi
    printf 'gangrun: %s has no %s, which the container needs\n' "${SLURMD_NODENAME:-$HOSTNAME}" "$thing" >&2
    return 1
  done
}

# Writes down the time every few seconds until its input ends: a pipe that only `task` holds, so it cannot outlive it.
beat() {
  local ticks=0
  while
    ((ticks++ % BEAT_EVERY)) || printf '%(%s)T\n' -1 >"$1"
    read -rt 1
    (($? > 128)) # the time was up
  do still_wanted; done
}

# guard TOKEN: sweeps when its input ends without a word, as a task that is killed sweeps after nobody. Slurm kills all of
# a step that it ends, and where it tracks processes by their parents (proctrack/linuxproc) what has lost them stays. So
# does this: an orphan with a group of its own and none of the step's output, for which the step would wait.
guard() {
  set -m
  { read -r || sweep "$1"; } <&0 >/dev/null 2>&1 &
}

# Kills what has this token in its environment, whichever session it is in and whoever its parent is by now. Fails if
# there is still something.
sweep() {
  local pass found file
  for pass in 1 2 3 4 5; do
    # Slurm signals all of a step, and may do so again within 20 ms, and then kills: this first, and the shell a little
    # later, which must not take it for an answer.
    found=$(trap '' HUP INT TERM USR1 USR2 && grep -lzF "GANGRUN_TASK=$1" /proc/[0-9]*/environ 2>/dev/null)
    (($? < 128)) || continue
    [[ -n $found ]] || return 0
    for file in $found; do
      file=${file#/proc/}
      kill -KILL "${file%/environ}" 2>/dev/null
    done
    sleep 0.1 # so that a process which is just being born is met in the next pass
  done
  return 1
}

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

# ---- the job
begin 2 1 0:0
roles
finish_when_mains_end
