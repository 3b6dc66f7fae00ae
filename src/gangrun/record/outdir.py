"""An output directory that is not the run's own: whose it is, and what points from it into the record.

::

    <output_dir>/run -> the run's directory
    <output_dir>/rl.sh -> run/script.sh
    <output_dir>/configs -> run/configs
    the run's directory/checkpoints -> <output_dir>/checkpoints, made by the job

The programs of the job write the rest. Nothing outside of the directory is ever touched.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from gangrun.errors import InputError
from gangrun.record.links import point
from gangrun.record.rundir import RunDir
from gangrun.record.words import refusal

RUN = "run"
_OF_OTHERS = ("rl.sh", "sft.sh", "configs")
"""What other launchers leave in such a directory."""


class OutputDir:
    """One output directory, which one run holds at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def holder(self) -> RunDir | None:
        """The run that holds it; None where no run of ours does."""
        try:
            return RunDir(self.path / (self.path / RUN).readlink())
        except OSError:
            return None

    def refuse_what_is_not_ours(self) -> None:
        """Raises InputError where another launcher's run is in it, or something that cannot be taken for a run."""
        if self.holder is not None:
            return
        for name in (RUN, *_OF_OTHERS):
            if os.path.lexists(self.path / name):
                raise InputError(
                    f"the output directory holds {name}, which gangrun has not made",
                    where=str(self.path),
                    way_out="choose another output_dir, or move what is there out of the way",
                )

    def open(self) -> None:
        """Makes it, with what is missing above it. Raises InputError where that, or writing in it, cannot be done."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / f".gangrun.{os.getpid()}"
            probe.mkdir()
            probe.rmdir()
        except OSError as error:
            raise InputError(
                "the output directory cannot be written",
                where=str(self.path),
                why=f"{error.strerror}: {error.filename}",
                way_out="choose another output_dir, or leave it out for the run's own directory",
            ) from error

    def clean(self, keep: Iterable[Path]) -> None:
        """Deletes all that is in it, and follows no link out of it. Raises InputError where something of `keep` is in
        it, and then deletes nothing; RecordError for what cannot be deleted."""
        real = self.path.resolve()
        for one in keep:
            if one.resolve().is_relative_to(real):
                raise InputError(
                    f"--clean would delete {one}",
                    where=str(self.path),
                    way_out="choose another output_dir, or delete by hand what is to go",
                )
        try:
            for entry in list(os.scandir(self.path)):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path)
                else:
                    Path(entry.path).unlink()
        except OSError as error:
            raise refusal("--clean cannot delete all of it", error.filename or str(self.path), error) from error

    def take(self, run: RunDir, script: str) -> None:
        """Points from it to the run that holds it from now on. Raises RecordError where a link cannot be made."""
        for name, target in ((RUN, run.dir), (script, f"{RUN}/{run.script.name}"), ("configs", f"{RUN}/configs")):
            _point(self.path / name, target)


def require_held(run: RunDir) -> None:
    """Raises InputError where the run has its checkpoints in an output directory that another run holds by now."""
    try:
        outputs = OutputDir((run.path / "checkpoints").readlink().parent)
    except OSError:
        return
    holder = outputs.holder
    if holder and holder.path.resolve() != run.path.resolve():
        raise InputError(
            f"{run.run_id} cannot be resumed: its output directory is that of {holder.run_id} now",
            where=str(outputs.path),
            way_out=f"gangrun resume {holder.run_id}",
        )


def point_to_script(run: RunDir, script: str) -> None:
    """The run's script under the name that a recipe promises. Raises RecordError."""
    _point(run.path / script, run.script.name)


def _point(link: Path, target: str) -> None:
    try:
        point(link, target)
    except OSError as error:
        raise refusal(f"cannot make the link {link.name}", str(link.parent), error) from error
