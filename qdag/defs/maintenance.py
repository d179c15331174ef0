"""Upkeep of the tables as a job: compact, vacuum, back up."""

import dagster as dg

from qdag.assets.platform import Platform

MAINTENANCE_JOB = "maintenance"


def maintenance_job(platform: Platform) -> dg.JobDefinition:
    """Compact, vacuum, back up: one op each, so that the UI tells which failed."""

    @dg.op(description="Merge small files of every table.")
    def compact_tables(context: dg.OpExecutionContext) -> None:
        from qdag.operations.upkeep import compact

        for table, (before, after) in compact(platform).items():
            context.log.info(f"{table}: {before} files, now {after}")

    @dg.op(ins={"after": dg.In(dg.Nothing)}, description="Delete what no version needs that is kept.")
    def vacuum_tables(context: dg.OpExecutionContext) -> None:
        from qdag.operations.upkeep import vacuum

        for expired in vacuum(platform):
            files, size = len(expired.files), expired.size / 2**20
            context.log.info(f"{expired.table}: {files} files deleted, {size:,.1f} MiB")

    @dg.op(ins={"after": dg.In(dg.Nothing)}, description="Copy what is new to the backup of the settings.")
    def back_up_tables(context: dg.OpExecutionContext) -> None:
        from qdag.models.saved import not_saved
        from qdag.operations.upkeep import back_up

        target = platform.settings.automation.backup
        if target is None:
            context.log.info("no backup: automation.backup is not set")
            return

        def told(table: str, done: int, total: int) -> None:
            if done == total:
                context.log.info(f"{table}: {total} files are in the backup")

        made = back_up(platform, target, told)
        context.log.info(f"backup {made.id}: {made.copied} of {made.files} files copied, {made.copied_size:,} bytes")
        if missing := not_saved(platform.settings):
            context.log.info(missing)

    @dg.job(name=MAINTENANCE_JOB, description="Upkeep of the tables.", executor_def=dg.in_process_executor)
    def maintenance() -> None:
        back_up_tables(after=vacuum_tables(after=compact_tables()))

    return maintenance
