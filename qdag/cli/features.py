"""``qdag features`` and ``qdag explain``: what is computed, from what, and how much past it needs."""

from typing import Annotated

import typer

from qdag.cli.console import Config, screen, show_table


def features(
    table: Annotated[str | None, typer.Argument(help="feature set; all when none is named")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="as docs/features.md has it")] = False,
    config: Config = None,
) -> None:
    """List features: group, unit (of a level), meaning, direction, expression and look-back in sessions."""
    from qdag.features.catalogue import HEADING, catalogue_markdown, feature_set, feature_sets, lookbacks

    if markdown:
        typer.echo(catalogue_markdown([feature_set(table)] if table else feature_sets().values()), nl=False)
        return
    from qdag.errors import unknown
    from qdag.settings import load_settings

    console = screen(200)
    settings = load_settings(config)
    known = feature_sets() | {chosen.name: chosen for chosen in settings.feature_sets()}
    if table and table not in known:
        raise unknown("feature set", table, known)
    for declared in [known[table]] if table else known.values():
        past = lookbacks(declared)
        rows = (
            (f.name, f.group, f.unit, f.meaning, f.direction, f.expression or "", past[f.name])
            for f in declared.features
        )
        show_table(console, HEADING, rows, title=declared.name)


def explain(
    expressions: Annotated[list[str] | None, typer.Argument(help="expressions to plan together")] = None,
    table: Annotated[str | None, typer.Option("--set", help="plan a whole feature set instead")] = None,
    sessions: Annotated[int, typer.Option(min=1, help="length of the panel for the memory estimate")] = 2_500,
) -> None:
    """Print the plan of expressions: shared nodes, look-back, fields and memory. Nothing is computed."""
    from qdag.engine import plan
    from qdag.errors import ExpressionError
    from qdag.features.catalogue import expressions as set_expressions
    from qdag.schema import FIELDS

    if bool(expressions) == bool(table):
        raise ExpressionError("give expressions or --set NAME, one of the two: qdag explain 'Mean($close, 5)/$close'")
    texts = set_expressions(table) if table else {f"e{i}": text for i, text in enumerate(expressions or (), start=1)}
    typer.echo(plan(texts, fields=FIELDS).explain(sessions))
