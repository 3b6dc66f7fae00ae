# shellcheck shell=bash
# enter RUN/JOB/ATTEMPT NAME COMMAND...: runs a command as the program of a replica of a running job runs: in its
# environment, which holds the mark by which all that is started here ends with the replica, in its directory, and in
# its container, whichever runtime made that.
enter() {
  local file pid stat fields there seen inner='' pair found=() join=()
  seen=$(readlink /proc/self/ns/mnt)
  # From the oldest process that carries the mark on: a runtime may take several steps into the container.
  while read -r _ pid; do
    inner=${inner:-$pid}
    there=$(readlink "/proc/$pid/ns/mnt")
    [[ -z $there || " $seen " == *" $there "* ]] || seen+=" $there" inner=$pid
  done < <(
    while read -r file; do
      { read -r stat <"${file%environ}stat"; } 2>/dev/null || continue
      read -ra fields <<<"${stat##*) }"
      echo "${fields[19]} ${file//[!0-9]/}"
    done < <(grep -lzF "GANGRUN_TASK=$1/$2/" /proc/[0-9]*/environ 2>/dev/null) | sort -n
  )
  [[ -n $inner ]] || { echo "gangrun: $2 has no process on ${SLURMD_NODENAME:-$HOSTNAME}: it starts, or ends" >&2 && exit 1; }
  if [[ $seen == *' '* ]]; then
    join=("$(type -P nsenter)" "--target=$inner" --mount --root --wd)
    [[ $(readlink "/proc/$inner/ns/user") == "$(readlink /proc/self/ns/user)" ]] || join+=(--user --preserve-credentials)
    join+=(--)
  else
    cd -- "$(readlink "/proc/$inner/cwd")" || exit
  fi
  while IFS= read -r -d '' pair; do
    [[ $pair == TERM=* || $pair == BASH_ENV=* || $pair == ENV=* ]] || found+=("$pair")
  done <"/proc/$inner/environ"
  shift 2
  exec env -i "${found[@]}" TERM="${TERM:-dumb}" "${join[@]}" "$@"
}
