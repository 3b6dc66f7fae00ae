#!/usr/bin/env bash
# packages.sh PROGRAM:PACKAGE...: brings by apt the packages whose program is not on PATH.
set -eu
absent=()
for pair; do
  command -v "${pair%%:*}" >/dev/null || absent+=("${pair#*:}")
done
((${#absent[@]})) || exit 0
export DEBIAN_FRONTEND=noninteractive
install=(apt-get install --yes --no-install-recommends "${absent[@]}")
"${install[@]}" || { apt-get update && "${install[@]}"; } # the lists may be old or absent
