# shellcheck shell=bash disable=SC2034,SC2154,SC2329 # each half uses what the other sets and calls what it defines
# The verbs of this script: begin, start, ready, await, finish_when_mains_end.
# A replica is one step of the job, and each of its lives is one background process of this script. The script looks
# which of them are gone, decides by the replica's kind what that means, and at the end stops what is left.
set -m # gives every background process a group of its own, which can be signalled as a whole

HOSTS=() PORTS=() # for the commands below: hosts in the order of the allocation, port numbers
NAMES=() WORDS=() # replicas in the order of their start, and the words that they were started with, all in one row
declare -A KIND NODES RESTARTS FROM COUNT PROCESS ENDED
CAUSE='' SIGNAL='' RELAY='' PHASE='' FORCED='' PORT_BASE=''

say() { printf 'gangrun: %s\n' "$*" >&2; }

# By rename, so that nobody ever reads half a file.
record() { printf '%s\n' "$2" >"$STATUS/$1.new" && mv -f -- "$STATUS/$1.new" "$STATUS/$1"; }

# One line in the replica's diary.
note() { printf '%(%s)T %s\n' -1 "$2" >>"$STATUS/$1.lives"; }

# Sleeps until the time is up, a child ends or a signal comes: bash runs no trap while a program runs in front.
pause() {
  sleep "$1" >/dev/null 2>&1 &
  wait -n
}

# Runs a program in such a way that a signal need not wait for it.
aside() {
  "$@" </dev/null >/dev/null 2>&1 &
  wait "$!"
}

# end CAUSE CODE: the rest is done by `finish`, which runs however the script ends.
end() {
  CAUSE=$1
  exit "$2"
}

# --- the verbs -------------------------------------------------------------------------------------------------------

# begin NODES PORTS CHECKS: looks at the allocation, makes the attempt's directory, finds ports, runs `setup`.
begin() {
  local number
  allocation "$1"
  number=$((${FIRST_ATTEMPT:-1} + ${SLURM_RESTART_COUNT:-0}))
  while printf -v ATTEMPT %03d "$number" && [[ -e $RUN_DIR/attempts/$ATTEMPT ]]; do ((++number)); done
  ATTEMPT_DIR=$RUN_DIR/attempts/$ATTEMPT
  LOGS=$ATTEMPT_DIR/logs STATUS=$ATTEMPT_DIR/status
  mkdir -p -- "$LOGS" "$STATUS" || exit 1
  ln -sfn -- "$ATTEMPT" "$RUN_DIR/attempts/latest"
  export GANGRUN_RUN_NAME=$RUN_NAME GANGRUN_RUN_DIR=$RUN_DIR GANGRUN_JOB=$JOB GANGRUN_ATTEMPT=$ATTEMPT
  catch
  PHASE=setup
  ((${#HOSTS[@]} >= $1)) || { say "this allocation has ${#HOSTS[@]} nodes and the plan needs $1" && exit 1; }
  choose_ports "$2" "$3"
  printf '%(%s)T\n%s\n%s\n%s\n' -1 "$JOB" "${HOSTS[*]}" "$PORT_BASE" >"$STATUS/run.start"
  set -e
  setup
  set +eu
  PHASE=''
  catch # again, as setup may have set traps of its own
}

# A signal only leaves word; `obey` acts on it.
catch() {
  trap 'SIGNAL=TERM' TERM
  trap 'SIGNAL=INT' INT
  trap 'SIGNAL=HUP' HUP
  trap 'RELAY=USR1' USR1
  trap 'RELAY=USR2' USR2
  trap finish EXIT
}

# start ROLE INDEX KIND key=value... flags=N [N flags for srun] -- COMMAND...
start() {
  local name=$1.$2 word
  NAMES+=("$name")
  KIND[$name]=$3 NODES[$name]='' RESTARTS[$name]=0 FROM[$name]=${#WORDS[@]} COUNT[$name]=$#
  WORDS+=("$@")
  for word in "${@:4}"; do
    case $word in
      nodes=*) NODES[$name]=${word#*=} ;;
      restarts=*) RESTARTS[$name]=${word#*=} ;;
      flags=*) break ;;
    esac
  done
  launch "$name"
}

launch() {
  life "${WORDS[@]:${FROM[$1]}:${COUNT[$1]}}" </dev/null &
  PROCESS[$1]=$!
}

# ready NAME port HOST:PORT SECONDS | http URL SECONDS | file PATH SECONDS: waits; too long fails the job.
ready() {
  local name=$1 began=$SECONDS
  until is_ready "$2" "$3"; do
    look
    if [[ -n ${ENDED[$name]:-} ]] || ((SECONDS - began >= $4)); then
      say "$name is not ready after $((SECONDS - began)) s: $2 $3"
      end "unready $name $4" 1
    fi
    if ((SECONDS - began < 5)); then pause 0.2; else pause 1; fi
  done
  note "$name" ready
}

is_ready() {
  [[ $1 != file ]] || { [[ -e $2 ]] && return; }
  # With bash alone, as nodes may lack curl; under `timeout`, as a dead host lets a connect hang for minutes.
  aside timeout 5 bash -c "$(declare -f answers); answers \"\$@\"" - "$@"
}

# answers port HOST:PORT | http URL: whether a server is there, and there for HTTP says 2xx or 3xx.
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

# await NAME: until it has ended with 0; where it fails, so does the job.
await() {
  while look && [[ -z ${ENDED[$1]:-} ]]; do pause 1; done
}

finish_when_mains_end() {
  PHASE=last # no main will be started any more
  while look && mains_left; do pause 1; done
  exit 0
}

mains_left() {
  local name
  for name in "${NAMES[@]}"; do
    [[ ${KIND[$name]} != main || -n ${ENDED[$name]:-} ]] || return 0
  done
  return 1
}

# --- ports -----------------------------------------------------------------------------------------------------------

# Sets PORTS to COUNT ports in a row such that `ports_free BASE CHECKS`.
choose_ports() {
  local try port
  (($1)) || return 0
  for ((try = 0; try < 50; try++)); do
    port_base "$try" "$1"
    ports_free "$PORT_BASE" "$2" || continue
    for ((port = PORT_BASE; port < PORT_BASE + $1; port++)); do PORTS+=("$port"); done
    return 0
  done
  PHASE=''
  end ports 1
}

# port_base TRY COUNT: in 10000-31999, below the range from which the kernel hands ports to outgoing connections.
port_base() { PORT_BASE=$((10000 + (PORT_SEED * 101 + $1 * 1009) % (22000 - $2))); }

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

# One life of a replica: a process of its own, which outlives the signals that Slurm sends to all of a job's processes.
life() {
  local name=$1.$2 nodes='' gpus='' cpus='' tasks=1 restarts=0 ranks=0 master='' alone=1 node_cpus='' flags=0
  local code first='' node k=0 share='' address=''
  trap : HUP INT TERM USR1 USR2
  shift 3
  until [[ $1 == flags=* ]]; do
    local "$1"
    shift
  done
  flags=${1#*=}
  ((ranks == 0)) || address=${HOSTS[${nodes%%,*}]}
  nodes=${nodes//,/ }
  [[ -z $cpus ]] || share=$((cpus / tasks > 0 ? cpus / tasks : 1))
  # Made here before other hosts write them: NFS hides a new file for up to a minute from a host that looked too early.
  for node in $nodes; do
    : >"$STATUS/$name.$k.beat"
    ((++k))
  done
  [[ ! -s $STATUS/$name.lives ]] || rm -f -- "$STATUS/$name.first"
  note "$name" start
  step "${@:2}"
  code=$?
  # Where one task fails and the others are killed for it, srun may return the code of any of them.
  [[ ! -r $STATUS/$name.first ]] || read -r first _ <"$STATUS/$name.first"
  note "$name" "exit ${first:-$code}"
}

# One pass over everything: signals, then deaths, then silence.
look() {
  local name
  obey
  for name in "${NAMES[@]}"; do [[ ${KIND[$name]} == service ]] || bury "$name"; done
  # Services after mains: one that ends together with the last main has done nothing wrong.
  [[ $PHASE != last ]] || mains_left || return 0
  for name in "${NAMES[@]}"; do [[ ${KIND[$name]} != service ]] || bury "$name"; done
  listen
}

# Acts on the word that a signal has left.
obey() {
  local signal=$RELAY name names=()
  if [[ -n $signal ]]; then
    RELAY=''
    for name in "${NAMES[@]}"; do [[ ${KIND[$name]} != main ]] || ! running "$name" || names+=("$name"); done
    ask "$signal" "${names[@]}"
  fi
  case $SIGNAL in
    TERM) end 'signal TERM' 143 ;;
    INT) end 'signal INT' 130 ;;
    HUP) end 'signal HUP' 129 ;;
  esac
}

running() { [[ -n ${PROCESS[$1]:-} ]] && kill -0 "${PROCESS[$1]}" 2>/dev/null; }

# Reads how a life that is over has ended into `code` and `lost`; one that did not come to write it down was killed.
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
}

# If a life of this replica is over, starts its next one or draws the consequence of its kind.
bury() {
  local name=$1 kind=${KIND[$1]} code lost
  [[ -n ${PROCESS[$name]:-} ]] && ! running "$name" || return 0
  settle "$name"
  if ((code == 143 || code == 137)); then
    # At a time limit and at preemption the steps are signalled together with this script: then they are not the cause.
    pause 0.5
    obey
  fi
  if [[ -z $lost && (${RESTARTS[$name]} -gt 0) && ($code -ne 0 || $kind == service) ]]; then
    RESTARTS[$name]=$((${RESTARTS[$name]} - 1))
    say "$name ended with $code and is started again"
    launch "$name"
    return 0
  fi
  ENDED[$name]=$code
  record "$name.exit" "$code"
  [[ $kind != sidecar && $kind:$code != main:0 ]] || return 0
  [[ -z $lost ]] || end "lost $lost $name" 1
  end "$kind $name $code" "$((code ? code : 1))"
}

# --- the end ---------------------------------------------------------------------------------------------------------

finish() {
  local code=$?
  ((BASHPID == $$)) || exit "$code" # a child that is killed between its fork and its exec comes by here, too
  trap - EXIT
  trap : HUP INT TERM USR1 USR2
  set +eu
  [[ $PHASE != setup ]] || { CAUSE="setup $code" && code=$((code ? code : 1)); }
  [[ -z $CAUSE ]] || { say "$CAUSE" && record run.cause "$CAUSE"; }
  stop main
  stop service sidecar
  [[ -z $FORCED ]] || sweep_everywhere
  record run.exit "$code"
  exit "$code"
}

# stop KIND...: asks the replicas of these kinds to end, gives them GRACE seconds, then makes them.
stop() {
  local name code lost names=()
  for name in "${NAMES[@]}"; do
    [[ " $* " != *" ${KIND[$name]} "* || -z ${PROCESS[$name]:-} ]] || names+=("$name")
  done
  ((${#names[@]})) || return 0
  ask TERM "${names[@]}"
  if ! gone_within "$GRACE" "${names[@]}"; then
    FORCED=yes
    force "${names[@]}"
    gone_within 10 "${names[@]}" || for name in "${names[@]}"; do kill -KILL -- "-${PROCESS[$name]}"; done
  fi
  for name in "${names[@]}"; do
    settle "$name"
    record "$name.exit" "$code"
  done
}

gone_within() {
  local deadline=$((SECONDS + $1 + 1)) name # a second more, as SECONDS counts whole ones
  for name in "${@:2}"; do
    while running "$name"; do
      ((SECONDS < deadline)) || return 1
      pause 0.2
    done
  done
}

# --- beside each program, on its own node ----------------------------------------------------------------------------

# task NAME GPUS CPUS MASTER_ADDR MASTER_PORT COMMAND...: one process of a replica, whose `rank`, `local_rank`, `world`
# and `node_rank` are set. The command runs in front, so that it has the signals and the end that it would have alone.
task() {
  local name=$1 gpus=$2 cpus=$3 address=$4 port=$5 status=$GANGRUN_RUN_DIR/attempts/$GANGRUN_ATTEMPT/status
  local token=$GANGRUN_JOB/$GANGRUN_ATTEMPT/$1/$rank/ stopped='' code variable given wanted picked index pipe='' beat
  shift 5
  trap 'stopped=yes' TERM
  trap : HUP INT USR1 USR2
  if ((local_rank == 0)); then
    coproc BEAT { beat "$status/$name.$node_rank.beat"; }
    pipe=${BEAT[1]} beat=$BEAT_PID
  fi
  [[ -z ${SLURM_STEP_ID:-} || $rank != 0 ]] || printf '%s\n' "$SLURM_JOB_ID.$SLURM_STEP_ID" >"$status/$name.step"
  # Bash remarks on a program that a signal ends, which is none of the program's output: hence the outer 2>/dev/null.
  {
    (
      exec 2>&1
      # Of the devices that the scheduler gave, by whatever name, those at the replica's indices.
      for variable in {CUDA,ROCR,HIP}_VISIBLE_DEVICES ZE_AFFINITY_MASK GPU_DEVICE_ORDINAL; do
        [[ $variable == CUDA* || -n ${!variable:-} ]] || continue
        picked=''
        IFS=, read -ra given <<<"${!variable:-}"
        IFS=, read -ra wanted <<<"$gpus"
        for index in "${wanted[@]}"; do picked+=,${given[index]:-$index}; done
        ((${#given[@]} && ${#given[@]} == ${#wanted[@]})) || export "$variable=${picked#,}"
      done
      if [[ -n $cpus ]]; then
        export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$cpus}"
        [[ -z ${SLURM_STEP_ID:-} ]] || export SLURM_CPUS_PER_TASK="$cpus"
      fi
      if [[ -n $address ]]; then
        export RANK="$rank" LOCAL_RANK="$local_rank" WORLD_SIZE="$world" NODE_RANK="$node_rank"
        export MASTER_ADDR="$address" MASTER_PORT="$port"
      fi
      export GANGRUN_REPLICA="$name" GANGRUN_TASK="$token" GANGRUN_RANK="$rank" GANGRUN_LOCAL_RANK="$local_rank"
      export GANGRUN_WORLD_SIZE="$world" GANGRUN_NODE_RANK="$node_rank"
      [[ -z $stopped ]] || exit 143
      exec -- "$@"
    )
  } 2>/dev/null
  code=$?
  # noclobber: only the first task that fails gets to write
  ((code == 0)) || (set -C && printf '%s\n' "$code $rank ${SLURMD_NODENAME:-$HOSTNAME}" >"$status/$name.first") 2>/dev/null
  sweep "$token"
  if [[ -n $pipe ]]; then
    exec {pipe}>&-
    wait "$beat"
    printf 'exit %s\n' "$code" >"$status/$name.$node_rank.beat"
  fi
  return "$code"
}

# Writes down the time every few seconds until its input ends: a pipe that only `task` holds, so it cannot outlive it.
beat() {
  trap '' HUP INT TERM USR1 USR2
  while
    printf '%(%s)T\n' -1 >"$1"
    read -rt "$BEAT_EVERY"
    (($? > 128)) # the time was up
  do still_wanted; done
}

# Kills what has this token in its environment, whichever session it is in and whoever its parent is by now.
sweep() {
  local pass found file
  for pass in 1 2 3 4 5; do
    found=$(grep -lzF "GANGRUN_TASK=$1" /proc/[0-9]*/environ 2>/dev/null)
    [[ -n $found ]] || return 0
    for file in $found; do
      file=${file#/proc/}
      kill -KILL "${file%/environ}" 2>/dev/null
    done
    sleep 0.1 # so that a process which is just being born is met in the next pass
  done
}
