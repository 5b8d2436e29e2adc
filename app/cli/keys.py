"""`bitbudget keys` and `bitbudget projects`: who may use the service, and how much; for whoever runs it.

What they do is in `administration`, which loads the database: other commands need not wait for that.
"""

from __future__ import annotations

from typing import Annotated

import typer

from app.access.roles import Role
from app.cli.options import takes
from app.cli.output import Shown

Project = Annotated[str, typer.Option(help="The project, made if it is new.")]
Limit = Annotated[str | None, typer.Option(help="A number, or `none`: as the settings say.", show_default="unchanged")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    keys = typer.Typer(help="Make, list and revoke keys.", no_args_is_help=True)
    keys.command("create")(create)
    keys.command("list")(list_all)
    keys.command("revoke")(revoke)
    app.add_typer(keys, name="keys")
    of_projects = typer.Typer(help="List projects, and give them quotas.", no_args_is_help=True)
    of_projects.command("list")(list_projects)
    of_projects.command("set")(set_limits)
    app.add_typer(of_projects, name="projects")


@takes(shown=Shown)
def create(
    project: Project,
    role: Annotated[Role, typer.Option(help="What the key may do.")],
    expires: Annotated[
        str | None, typer.Option(help="How long it is valid: 90d, 12h, 30m.", show_default="until it is revoked")
    ] = None,
    label: Annotated[str | None, typer.Option(help="Whose it is, or what for.")] = None,
    *,
    shown: Shown,
) -> None:
    """Make a key and print it. It is not stored: whoever loses it needs another one."""
    from app.cli import administration

    administration.create(project, role, expires, label, shown)


@takes(shown=Shown)
def list_all(
    project: Annotated[str | None, typer.Option(help="Only those of this project.", show_default="all")] = None,
    *,
    shown: Shown,
) -> None:
    """List the keys of all projects, without what would let anybody use them."""
    from app.cli import administration

    administration.list_all(project, shown)


@takes(shown=Shown)
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The id of the key, as `list` shows it.")], *, shown: Shown
) -> None:
    """End a key at once."""
    from app.cli import administration

    administration.revoke(key_id, shown)


@takes(shown=Shown)
def list_projects(*, shown: Shown) -> None:
    """List the projects with their quotas; `-`: as the settings say."""
    from app.cli import administration

    administration.list_projects(shown)


@takes(shown=Shown)
def set_limits(
    name: Annotated[str, typer.Argument(help="The project.")],
    max_bytes: Limit = None,
    max_queued: Limit = None,
    max_running: Limit = None,
    max_samples: Limit = None,
    max_requests_per_minute: Limit = None,
    keep_days: Limit = None,
    *,
    shown: Shown,
) -> None:
    """Give a project quotas of its own, and say how many days its finished jobs are kept."""
    given = {
        "max_bytes": max_bytes,
        "max_queued": max_queued,
        "max_running": max_running,
        "max_samples": max_samples,
        "max_requests_per_minute": max_requests_per_minute,
        "keep_days": keep_days,
    }
    from app.cli import administration

    administration.set_limits(name, given, shown)
