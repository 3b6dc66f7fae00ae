"""The command line: one small file per command, wiring only.

`gangrun --help` and a mistyped command import nothing but this file; a command imports its own needs.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module

import gangrun

COMMANDS = {
    "Write": {
        "init": "start an experiment file here",
        "check": "say what is wrong with a file",
        "bash": "what scripts that source slurm/init.sh evaluate",
        "schema": "print the JSON Schema of experiment files, for editors",
        "generate": "write the script of a DDP, DiLoCo or MuLoCo training from its flags",
    },
    "See before": {
        "plan": "show what will run where: nodes, GPUs, ports, time",
        "script": "print the batch script that would be sent",
    },
    "Run": {
        "run": "run here and now: this machine, or the allocation you hold",
        "submit": "queue on the cluster",
        "job": "run a job of jobs/ in the script around it",
        "resume": "go on with runs that failed: the next attempt of the same run",
        "rl": "queue an RL training from its TOML",
        "sft": "queue a supervised one from its TOML",
        "cancel": "end runs",
        "throttle": "change how many items of a sweep run at once",
    },
    "See after": {
        "ls": "list runs and their state",
        "tree": "the experiment tree: steps, seeds, and the newest run of each",
        "show": "everything about one run: state, replicas, exit codes",
        "results": "one row for each item of a sweep: parameters, state, metrics",
        "logs": "read or follow what the replicas printed",
        "tmux": "follow each role in a pane of its own",
        "shell": "open a shell beside a replica of a running job",
        "exec": "run a command there",
        "why": "why a run waits, or why it failed",
        "gpus": "what a run uses: its GPUs, CPUs and memory, live or afterwards",
        "report": "what a run used and how well, as text and as an HTML page",
        "clean": "delete copies of the code that no run needs any more",
        "wandb": "send what was kept for Weights & Biases where there is no internet",
    },
    "Clusters": {
        "cluster": "discover, list and check cluster profiles",
        "lab": "a throw-away Slurm with several hosts on this machine",
    },
}
_SUMMARIES = {name: summary for group in COMMANDS.values() for name, summary in group.items()}


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0 fine, 1 failed, 2 bad input, 3 some of several, 130 interrupted."""
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] in ("-h", "--help", "help"):
        _print_help(sys.stdout if words else sys.stderr)
        return 0 if words else 2
    if words[0] in ("-V", "--version"):
        print(f"gangrun {gangrun.__version__}")
        return 0
    if words[0] not in _SUMMARIES:
        return _unknown(words[0])
    return _run(words[0], words[1:])


def _run(name: str, words: list[str]) -> int:
    import argparse
    import gc

    from gangrun.errors import GangrunError

    # A command makes much that lives to its end and few circles: a tenth of `ls` over 10,000 runs was looking for them.
    gc.set_threshold(100_000)
    module = import_module(f"gangrun.cli.{name}")
    parser = argparse.ArgumentParser(
        prog=f"gangrun {name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    parse = parser.parse_args
    given = argparse.Namespace()
    if getattr(module, "PASSES_ON", False):
        words, given.flags = _split(words)
        parse = parser.parse_intermixed_args  # FILE --set a=1 FILE
    if getattr(module, "OPEN", False):
        _, given.words = parser.parse_known_args(words, given)
        words = []
    try:
        args = parse(words, given)
        code: int = module.run(args)
        sys.stdout.flush()
    except GangrunError as error:
        print(f"gangrun: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader (`| head`) has gone; without this Python complains once more while it shuts down.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return code


def rl_slurm() -> int:
    """`rl_slurm …` is `gangrun rl …`."""
    return main(["rl", *sys.argv[1:]])


def sft_slurm() -> int:
    """`sft_slurm …` is `gangrun sft …`."""
    return main(["sft", *sys.argv[1:]])


def _split(words: list[str]) -> tuple[list[str], list[str]]:
    """The words before and after the first `--`."""
    at = words.index("--") if "--" in words else len(words)
    return words[:at], words[at + 1 :]


def _unknown(word: str) -> int:
    import difflib

    close = difflib.get_close_matches(word, _SUMMARIES, n=1)
    hint = f"did you mean {close[0]!r}?" if close else "gangrun --help lists the commands"
    print(f"gangrun: no command is named {word!r}; {hint}", file=sys.stderr)
    return 2


def _print_help(file: object) -> None:
    lines = ["usage: gangrun COMMAND …", "", gangrun.__doc__ or "", ""]
    for group, commands in COMMANDS.items():
        lines.append(f"{group}:")
        lines += [f"  {name:<9} {summary}" for name, summary in commands.items()]
        lines.append("")
    lines.append(
        "gangrun COMMAND --help says more. Exit codes: 0 fine, 1 failed, 2 bad input, 3 some of several failed."
    )
    print("\n".join(lines), file=file)  # type: ignore[call-overload]
