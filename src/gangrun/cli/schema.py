"""Print the JSON Schema of experiment files, with which an editor completes and checks them."""

from __future__ import annotations

import argparse
import json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--profile."""
    parser.add_argument("--profile", action="store_true", help="the schema of cluster profiles instead")


def run(args: argparse.Namespace) -> int:
    """Prints the schema."""
    from gangrun.spec.model import Profile, Spec

    model = Profile if args.profile else Spec
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **model.model_json_schema()}
    print(json.dumps(schema, indent=2, ensure_ascii=False))
    return 0
