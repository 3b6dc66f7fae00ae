"""Cluster profiles: `clusters/NAME.toml` in the project, then in the user's configuration folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gangrun.errors import InputError
from gangrun.spec import toml
from gangrun.spec.load import Source, anchored, nearest, nearest_source, validated
from gangrun.spec.model import Profile
from gangrun.spec.toml import Key

LOCAL = "local"
SLURM = "slurm"


@dataclass(frozen=True, slots=True)
class Cluster:
    """A profile under its name."""

    name: str
    profile: Profile
    file: str = ""
    """Where it stands; empty for a built-in one."""
    sources: Mapping[Key, Source] | None = None

    def origin(self, *key: str | int) -> Source:
        """Where the profile says this."""
        return nearest_source(self.sources or {}, key) or Source(f"profile {self.name}")


def folders(project: Path) -> tuple[Path, ...]:
    """Where profiles are looked for, first hit wins."""
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return (project / "clusters", config / "gangrun" / "clusters")


def known(project: Path, more: Mapping[str, Path]) -> dict[str, Path | None]:
    """Every profile by name with its file; None for the built-in ones. `more` are those that live elsewhere."""
    found: dict[str, Path | None] = {}
    for folder in folders(project):
        if folder.is_dir():
            for file in sorted(folder.glob("*.toml")):
                found.setdefault(file.stem, file)
    return {**more, **found, LOCAL: found.get(LOCAL), SLURM: found.get(SLURM)}


def load_cluster(name: str, project: Path, more: Mapping[str, Path], where: str = "") -> Cluster:
    """The profile of that name. `local` and `slurm` exist without a file. Raises InputError, SpecError.

    `where` says in errors who named it.
    """
    profiles = known(project, more)
    if name not in profiles:
        raise InputError(
            f"no cluster profile is named {name!r}" + (f"; {hint}" if (hint := nearest(name, profiles)) else ""),
            why=f"known: {', '.join(sorted(profiles))}; looked in {', '.join(map(str, folders(project)))}",
            where=where,
            way_out=f"gangrun cluster discover {name} writes one from what Slurm says",
        )
    file = profiles[name]
    if file is None:
        scheduler = LOCAL if name == LOCAL else SLURM
        return Cluster(name, Profile.model_validate({"scheduler": scheduler}))
    values, lines = toml.read(file)
    values = anchored(values, file.resolve().parent)
    sources = {key: Source(str(file), line) for key, line in lines.items()}
    return Cluster(name, validated(Profile, values, sources, str(file)), str(file), sources)
