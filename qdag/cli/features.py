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
    from qdag.features.catalogue import FEATURE_SETS, HEADING, catalogue_markdown, feature_set, lookbacks

    if markdown:
        typer.echo(catalogue_markdown([table] if table else list(FEATURE_SETS)), nl=False)
        return
    from qdag.settings import load_settings
    from qdag.stages import features_of

    console = screen(200)
    settings = load_settings(config)
    names = [table] if table else [*FEATURE_SETS, *(["custom_factors"] if settings.custom_factors else [])]
    for name in names:
        declared = features_of(settings, name) if name == "custom_factors" else feature_set(name)
        past = lookbacks(declared)
        rows = ((f.name, f.group, f.unit, f.meaning, f.direction, f.expression or "", past[f]) for f in declared)
        show_table(console, HEADING, rows, title=name)


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
