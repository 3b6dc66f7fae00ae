"""Slurm's reasons, refusals and end states in plain words, each with a way out.

The tables are data: a pattern that Slurm's words are searched with, and what it means. The first that fits wins. A
word that no pattern knows is shown as it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a word of Slurm means to the person who reads it."""

    words: str
    """A clause; `{name}` stands for a group of the pattern."""
    way_out: str = ""
    """What to do, empty where waiting is all that is to do."""
    passes: bool = False
    """Whether the job goes on by itself."""


Table: TypeAlias = Sequence[tuple[str, Meaning]]

# {what} of the limits of accounts and QOS.
_WHAT = {
    "Cpu": "CPUs", "CPU": "CPUs", "Mem": "memory", "Memory": "memory", "Node": "nodes", "GRES": "GPUs",
    "Job": "jobs", "Jobs": "jobs", "SubmitJob": "queued jobs", "SubmitJobs": "queued jobs", "Wall": "time",
    "WallDuration": "time", "Energy": "energy", "License": "licenses", "BB": "burst buffer space",
    "Billing": "billing units", "Unknown": "a resource",
}  # fmt: skip
_RESOURCE = "|".join(sorted(_WHAT, key=len, reverse=True))

_ASK_LESS = "ask for less in [allocation], or for another qos or account that allows more"

PENDING: Table = (
    # Waiting its turn.
    (
        r"^Priority$",
        Meaning("jobs with a higher priority are ahead in the queue", passes=True),
    ),
    (
        r"^Resources$",
        Meaning("it is next in the queue and waits until enough nodes, GPUs, CPUs or memory are free", passes=True),
    ),
    (
        r"^None$|^$",
        Meaning("the scheduler has not looked at it yet", passes=True),
    ),
    (
        r"^(Prolog|Cleaning|SchedDefer|FedJobLock|BurstBuffer(Resources|StageIn)|Power(NotAvail|Reserved))",
        Meaning("Slurm is preparing or tidying up ({reason}); this passes", passes=True),
    ),
    (
        r"^BeginTime",
        Meaning(
            "its begin time has not come. After a requeue or a preemption Slurm holds a job back for about two "
            "minutes (121 s), so a restarted run looks stuck",
            passes=True,
        ),
    ),
    (
        r"^DependencyNeverSatisfied",
        Meaning(
            "the run that it waits for has ended in a way that its dependency does not accept, so it can never start",
            "cancel it, mend the other run and submit again",
        ),
    ),
    (
        r"^Dependency",
        Meaning("it waits for the end of another run", passes=True),
    ),
    (
        r"^JobArrayTaskLimit",
        Meaning("as many tasks of its array run as were allowed at once (`%N` of --array)", passes=True),
    ),
    (
        r"^Licenses",
        Meaning("all licenses that it asks for are in use", "if this lasts, check the names in --licenses", True),
    ),
    # Nodes.
    (
        r"^ReqNodeNotAvail.*?Reserved for maintenance",
        Meaning(
            "its nodes are reserved for maintenance, which would begin before the job's time limit is over",
            "a time limit that ends before the maintenance lets it start now",
            True,
        ),
    ),
    (
        r"^ReqNodeNotAvail(?:.*?UnavailableNodes:\s*(?P<nodes>[^\s,()]+(?:,[^\s()]+)?))?",
        Meaning(
            "nodes that it needs are down, drained or reserved {nodes}",
            "ask for fewer nodes or another partition, take nodes out of --nodelist, or wait until they are back",
            True,
        ),
    ),
    (
        r"^Nodes required for job are DOWN",
        Meaning(
            "so many nodes are down, drained or reserved for more urgent partitions that too few are left for it",
            "ask for fewer nodes or another partition; `sinfo -R` tells why nodes are away",
            True,
        ),
    ),
    (
        r"^NodeDown|^FrontEndDown",
        Meaning("a node that it needs is down", "choose other nodes, or wait until it is back", True),
    ),
    (
        r"^(Reservation|ReservationDeleted|ReservationInvalid|Resv\w*)$",
        Meaning(
            "it waits for its reservation, or the reservation is gone",
            "`scontrol show reservation` tells its times; take `reservation` out of the spec to run without it",
        ),
    ),
    # Partitions.
    (
        r"^PartitionTimeLimit",
        Meaning(
            "its time limit is longer than its partition allows, so it never starts",
            "cancel it and submit with a shorter `time` or another partition (`sinfo -o '%P %l'` lists the limits)",
        ),
    ),
    (
        r"^PartitionNodeLimit",
        Meaning(
            "it asks for more nodes (or fewer) than its partition allows or has, so it does not start",
            "cancel it and submit with another number of nodes or another partition",
        ),
    ),
    (
        r"^PartitionDown|^PartitionInactive",
        Meaning("its partition is switched off", "submit to another partition, or wait until it is up again", True),
    ),
    (
        r"^PartitionConfig",
        Meaning(
            "its partition does not take this job: account, group, qos, size or time does not fit",
            "`scontrol show partition` lists what it takes",
        ),
    ),
    # Held.
    (
        r"^JobHeldUser",
        Meaning("it was held by its owner", "`scontrol release JOB` lets it go"),
    ),
    (
        r"^JobHeldAdmin",
        Meaning(
            "it was held by an administrator, or given the priority 0",
            "ask the cluster's support why",
        ),
    ),
    (
        r"launch failed requeued held|^user env retrieval failed",
        Meaning(
            "starting it failed on its node, and Slurm put it back and holds it",
            'note the node (`scontrol show job JOB`), exclude it with `sbatch = { exclude = "NODE" }`, then '
            "`scontrol release JOB`; without --export and --get-user-env nothing is read from a login shell",
        ),
    ),
    (
        r"^job requeued in held state|^JobHoldMaxRequeue",
        Meaning("it was put back into the queue and is held there", "`scontrol release JOB` lets it go"),
    ),
    (
        r"^BadConstraints|^Constraints",
        Meaning(
            "no node fits what it asks for, so it never starts",
            "check gpus, cpus, mem and constraint against `gangrun cluster discover`",
        ),
    ),
    # Accounts and QOS.
    (
        r"^InvalidAccount|^AccountNotAllowed|^Job's account not (known|permitted)",
        Meaning(
            "its account is unknown or may not use this partition",
            "set `account` in [allocation] or the profile (SBATCH_ACCOUNT is not read)",
        ),
    ),
    (
        r"^InvalidQOS|^QOSNotAllowed|^Job's QOS not permitted",
        Meaning("its qos is unknown or not allowed here", "set `qos` in [allocation] or the profile"),
    ),
    (
        rf"^QOSMax(?P<what>{_RESOURCE})?(Run)?(Minutes|Mins)?Per(Job|Node)",
        Meaning("this job alone asks for more {what} than its qos allows one job, so it never starts", _ASK_LESS),
    ),
    (
        rf"^QOSMax(?P<what>{_RESOURCE})?(Run)?(Minutes|Mins)?Per(User|Account)",
        Meaning(
            "your other jobs use all the {what} that the qos allows one user",
            "it starts when one of them ends, unless it asks for more than the limit by itself",
            True,
        ),
    ),
    (
        rf"^QOSMin(?P<what>{_RESOURCE})",
        Meaning(
            "its qos demands more {what} than it asks for, so it never starts",
            "GPU partitions often demand GPUs: set `gpus`, or choose another qos",
        ),
    ),
    (
        rf"^QOSGrp(?P<what>{_RESOURCE})(Minutes|Mins)",
        Meaning("the qos has used up its budget of {what}", "choose another qos, or wait until it is refilled"),
    ),
    (
        rf"^QOSGrp(?P<what>{_RESOURCE})?",
        Meaning("all users of its qos together use all the {what} that it allows", "", True),
    ),
    (
        rf"^AssocMax(?P<what>{_RESOURCE})(Run)?(Minutes|Mins)?Per(Job|Node)",
        Meaning("this job alone asks for more {what} than your account allows, so it never starts", _ASK_LESS),
    ),
    (
        rf"^AssocMax(?P<what>{_RESOURCE})",
        Meaning("your other jobs use all the {what} that your account allows you", "", True),
    ),
    (
        rf"^AssocGrp(?P<what>{_RESOURCE})(Minutes|Mins)",
        Meaning(
            "your account has used up its budget of {what}",
            "use another account, or wait until the budget is refilled",
        ),
    ),
    (
        rf"^AssocGrp(?P<what>{_RESOURCE})?",
        Meaning("all users of your account together use all the {what} that it may have", "", True),
    ),
    (
        rf"^Max(?P<what>{_RESOURCE})PerAccount",
        Meaning("your account uses all the {what} that the qos allows one account", "", True),
    ),
    (
        r"^MaxMemPerLimit",
        Meaning("it asks for more memory per CPU or node than is allowed", "lower `mem`"),
    ),
    (
        r"^(QOS|Association|Assoc)\w*Limit|^QOSUsageThreshold|^AccountingPolicy",
        Meaning("a limit of its account or qos holds it back ({reason})", _ASK_LESS),
    ),
)

REFUSED: Table = (
    # sbatch never asked the controller.
    (
        r"unrecognized option '(?P<flag>[^']*)'|invalid option -- '(?P<short>[^']*)'",
        Meaning("sbatch of this Slurm does not know {flag}{short}", "take it out of `sbatch` in the spec, or mend it"),
    ),
    (
        r"option '(?P<flag>[^']*)' (requires|doesn't allow) an argument|ambiguous option: (?P<short>\S+)",
        Meaning("{flag}{short} is not used as sbatch wants it", "`sbatch --help` shows the form"),
    ),
    (
        r"Invalid --?(?P<flag>[\w-]+) (specification|value|argument)",
        Meaning("the value of --{flag} is not one that sbatch takes", "`sbatch --help` shows the form"),
    ),
    (
        r"Unable to open file (?P<file>.+)",
        Meaning(
            "the script {file} cannot be read", "the run directory was moved or deleted, or is not on this machine"
        ),
    ),
    (
        r"Batch script is empty|contains only whitespace|not look like a batch script|DOS line breaks|NULL character",
        Meaning(
            "the script is not one that sbatch takes: it must begin with `#!`, have Unix line ends and no NUL",
            "if the script comes from a template of your own, save the template that way",
        ),
    ),
    (
        r"mutually exclusive",
        Meaning("two flags contradict each other", "keep one of them; the flags come from `sbatch`, qos and profile"),
    ),
    (
        r"can't be reached now, or it is an invalid entry for --clusters?|Invalid cluster name",
        Meaning("Slurm knows no such cluster, or its database does not answer", "mend or remove `clusters`"),
    ),
    # Partition, nodes, resources.
    (
        r"Invalid partition name",
        Meaning("there is no such partition, or it is hidden from you", "`sinfo -s` lists those that you may use"),
    ),
    (
        r"No partition specified or system default partition",
        Meaning("no partition was named and this cluster has no default one", "set `partition` in [allocation]"),
    ),
    (
        r"User's group not permitted",
        Meaning("your Unix group may not use this partition", "choose another, or ask for membership"),
    ),
    (
        r"Required partition not available|Partition in DOWN state|Requested partition configuration not available",
        Meaning("the partition is down, drained or does not fit the request", "choose another partition, or wait"),
    ),
    (
        r"CPU count per node can not be satisfied|CPU count specification invalid|More processors requested",
        Meaning("no node of the partition has that many CPUs", "lower `cpus` (per node) or tasks"),
    ),
    (
        r"Memory specification can not be satisfied|Memory required by task is not available",
        Meaning("no node of the partition has that much memory", "lower `mem` (per node)"),
    ),
    (
        r"Node count specification invalid",
        Meaning("the partition does not allow, or does not have, that many nodes", "change `nodes` or the partition"),
    ),
    (
        r"Invalid Trackable RESource|Invalid generic resource|Invalid gres|Invalid GRES|Invalid --gpu",
        Meaning(
            "the cluster does not know GPUs (or other devices) of that name or form",
            "`gangrun cluster discover` lists what the nodes have; leave the type out to take any",
        ),
    ),
    (
        r"Requested node configuration is not available",
        Meaning(
            "no node, or too few nodes, of the partition have what was asked for: GPUs and their type, CPUs, memory, "
            "constraint, or all others are excluded",
            "compare [allocation] with `gangrun cluster discover`",
        ),
    ),
    (
        r"Invalid node name|Requested nodes not in this partition|Required node not available",
        Meaning("a node that is named does not exist, is away, or is not in the partition", "mend --nodelist"),
    ),
    (
        r"Invalid feature specification|Invalid preferred feature|--batch option is invalid",
        Meaning("no node has the features of --constraint", "`sinfo -o '%P %f'` lists the features"),
    ),
    (
        r"Requested time limit is invalid|Invalid time(-min)? (specified|specification)|Invalid time limit",
        Meaning(
            "the time limit is missing, or longer than the partition or qos allows, or past the deadline",
            "set a shorter `time`; `sinfo -o '%P %l'` lists the limits",
        ),
    ),
    # Who.
    (
        r"Invalid account|Invalid or unknown association",
        Meaning(
            "the account is unknown, not yours, or not allowed in this partition",
            "set `account` in [allocation] or the profile (SBATCH_ACCOUNT is not read); "
            "`sacctmgr show assoc user=$USER` lists yours",
        ),
    ),
    (
        r"Invalid qos|Invalid QOS",
        Meaning("the qos is unknown or not yours", "`sacctmgr show assoc user=$USER format=account,qos` lists yours"),
    ),
    (
        r"violates accounting/QOS policy|(?P<limit>(QOS|Assoc)\w*(Limit|Per\w+|GRES|Cpu\w*|Node\w*|Mem\w*))",
        Meaning(
            "a limit of your account or qos does not let this job in {limit}",
            "ask for less, cancel queued jobs, or use another qos or account; "
            "`sacctmgr show qos` and `sacctmgr show assoc user=$USER` show the limits",
        ),
    ),
    (
        r"Requested account has breached|AssocGrpBilling",
        Meaning("the account has used more than its share", "use another account or qos"),
    ),
    (
        r"Access/permission denied|Invalid user id|Invalid group id|Only batch jobs",
        Meaning("Slurm does not let you do this", "it may be another user's job; ask the cluster's support"),
    ),
    (
        r"[Rr]eservation",
        Meaning(
            "the reservation does not exist, is not yours or not open now", "`scontrol show reservation` lists them"
        ),
    ),
    # The rest.
    (
        r"Job dependency problem|Circular job dependency",
        Meaning(
            "the job that this one is to wait for is unknown to Slurm (it forgets ended jobs after some minutes) or "
            "the dependency is misspelt",
            "if that job has ended well, submit without the dependency",
        ),
    ),
    (
        r"Invalid job array",
        Meaning(
            "the array is misspelt or its highest index is over MaxArraySize - 1, which caps the index, not the count",
            "use a smaller array, or several",
        ),
    ),
    (
        r"Invalid license|Licenses currently unavailable",
        Meaning("the cluster has no such licenses", "`scontrol show lic` lists them"),
    ),
    (
        r"MaxJobCount limit|job queue full|temporarily unable to accept job|Resource temporarily unavailable",
        Meaning("the cluster's queue is full (MaxJobCount)", "submit later, or fewer jobs"),
    ),
    (
        r"System submissions disabled",
        Meaning("the administrators take no jobs now", "submit later"),
    ),
    (
        r"Pathname of a file.*too long|I/O error writing script|Environment is missing",
        Meaning("the controller could not store the job", "ask the cluster's support; its disk may be full"),
    ),
    # No answer.
    (
        r"Unable to contact slurm controller|Connection (refused|timed out|reset)|Communication connection failure",
        Meaning(
            "Slurm's controller does not answer: it is down, restarting, or this machine cannot reach it", "", True
        ),
    ),
    (
        r"Socket timed out|Zero Bytes were|Message (send|receive) failure|did not answer in time|Rate limit",
        Meaning("Slurm's controller is too busy to answer in time", "", True),
    ),
    (
        r"[Aa]uthentication",
        Meaning(
            "this machine cannot prove to Slurm who you are: its munge daemon is down or has another key", "", True
        ),
    ),
)

ENDED: Table = (
    (
        r"^TIMEOUT|^TimeLimit",
        Meaning(
            "it reached its time limit",
            "raise `time`; a program that writes checkpoints can go on from them when it is submitted again",
        ),
    ),
    (
        r"^OUT_OF_MEMORY|^OutOfMemory",
        Meaning(
            "it used more memory on a node than it had asked for, and was killed for it",
            "raise `mem` (per node), or load less: fewer workers, smaller batches",
        ),
    ),
    (
        r"^NODE_FAIL|^NodeDown",
        Meaning("a node broke down under it", "submit it again; exclude the node if it happens again"),
    ),
    (
        r"^PREEMPTED",
        Meaning("a more urgent job took its nodes", "submit it again, or use a qos that is not preempted"),
    ),
    (
        r"^BOOT_FAIL",
        Meaning("its nodes could not be started", "submit it again; ask the cluster's support if it lasts"),
    ),
    (
        r"^DEADLINE|^DeadLine",
        Meaning("it could not have ended before its --deadline, so Slurm dropped it", "a later deadline, or less time"),
    ),
    (
        r"^REVOKED",
        Meaning("another cluster of the federation runs it"),
    ),
    (
        r"BadConstraints",
        Meaning(
            "no node fits what it asks for; it never started",
            "check gpus, cpus, mem and constraint against `gangrun cluster discover`",
        ),
    ),
    (
        r"RaisedSignal:53|JobLaunchFailure",
        Meaning(
            "its batch script could not be started or was killed from outside: a missing directory, a failing prolog, "
            "a full disk, or kill -9",
            "look at the end of job.log; if that is empty, the run directory may not be visible on the node",
        ),
    ),
    (
        r"RaisedSignal:(?P<number>\d+)\(?(?P<name>[^)]*)",
        Meaning("its batch script was ended by signal {number} {name}", "look at the end of job.log"),
    ),
    (
        r"InvalidAccount|InvalidQOS|SystemFailure|InactiveLimit|BurstBufferOperation",
        Meaning("Slurm ended it ({reason})", "ask the cluster's support"),
    ),
    (
        r"^CANCELLED",
        Meaning("it was cancelled"),
    ),
    (
        r"NonZeroExitCode|^FAILED",
        Meaning("its batch script ended with an error", "the logs of the role that failed first tell why"),
    ),
    (
        r"^COMPLETED",
        Meaning("it ended well"),
    ),
)


def pending(reason: str) -> Meaning:
    """Why a job waits, from the reason that Slurm gives."""
    return _look_up(PENDING, reason)


def refused(words: str) -> Meaning:
    """Why a command was refused, from all that it said. The table's order decides, not the order of the lines: sbatch
    says the particular before the general."""
    return _look_up(REFUSED, words)


def ended(state: str, reason: str = "") -> Meaning:
    """Why a job ended, from its state or, as FAILED says little, the reason. A cancelled job's reason is what it had
    waited for."""
    return _look_up(ENDED, reason if state == "FAILED" and reason else state)


def _look_up(table: Table, said: str) -> Meaning:
    for pattern, meaning in table:
        if match := re.search(pattern, said):
            groups = {name: value or "" for name, value in match.groupdict().items()}
            if "what" in groups:
                groups["what"] = _WHAT.get(groups["what"], "resources")
            words = re.sub(r"\s+(?=$|[,;:])", "", meaning.words.format(reason=said, **groups))
            return Meaning(words, meaning.way_out, meaning.passes)
    return Meaning(said)
