"""A study: trials of the methods' settings, then the cells, then the comparison. Resumable at any moment."""

from typing import Any

from raymds import lease
from raymds.config import Config
from raymds.errors import RaymdsError, StoppedError, UsageError
from raymds.store import objects
from raymds.store import uri as storage
from raymds.study import grid
from raymds.study.page import write_page, write_tables
from raymds.study.plan import Cell, Job, Plan, Setting, Trial, named
from raymds.study.results import Results
from raymds.tasks import check_per_task, resolve
from raymds.train import driver
from raymds.train.cluster import Show, room
from raymds.train.placement import concurrent
from raymds.train.prepared import check_examples


def prepare(plan: Plan, show: Show) -> dict[str, Any]:
    """Everything that can be known before the first step: how many cells and trials, of which how many have ended.

    UsageError naming method, target and data set. Loads the old model of each and writes nothing.
    """
    configs = _configs(plan)
    objects.configure(next(iter(configs.values())).storage)
    results = Results(plan)
    storage.check_writable(plan.uri)
    prepared: dict[tuple[str, str, str], Any] = {}
    at_once = []
    for job, config in configs.items():
        key = job.data, job.target, job.method
        try:
            at_once.append(concurrent(config, room(show, growing=config.run.autoscaling))[1])
            if key not in prepared:
                prepared[key] = driver.prepare(config, _silent)
                continue
            data = prepared[key].data
            tasks = resolve(config.task, data.attributes)
            check_per_task(config, tasks)
            check_examples(config, data, tasks)
        except UsageError as error:
            raise named(job, error) from None
    return {
        "uri": plan.uri, "cells": len(plan.cells), "trials": len(plan.trials), "at_once": min(at_once),
        "cells_ended": len(results.cells), "trials_ended": len(results.trials),
        "targets": [f"{target} on {data}" for data, target in plan.pairs],
        "methods": {method: len(settings) for method, settings in plan.settings.items()},
    }  # fmt: skip


def conduct(plan: Plan, show: Show, take_over: bool = False) -> dict[str, Any]:
    """Run what the study still lacks; the content of study.json, which lies in its directory with tables and plots.

    RaymdsError where cells failed, after everything else has run; StoppedError where it was asked to stop. `take_over`
    as in `driver.pretrain`.
    """
    with lease.held(plan.uri, show, take_over=take_over):
        return _conduct(plan, show)


def _conduct(plan: Plan, show: Show) -> dict[str, Any]:
    objects.configure(next(iter(_configs(plan).values())).storage)
    results, stopped = Results(plan), False
    if results.left():
        prepare(plan, show)
    try:
        while (left := results.left()) and not stopped:
            # Where none of them ended, none would if they were run once more.
            stopped = _round(results, left, show) or results.left().keys() >= left.keys()
    finally:
        found = write_tables(results)
        write_page(results, found)
    ended = f"{len(results.cells)} of {len(plan.cells)} cells and {len(results.trials)} of {len(plan.trials)} trials"
    if stopped:
        raise StoppedError(
            f"stopped with {ended} ended; the same command goes on with the others, each from its last checkpoint"
        )
    if len(results.cells) < len(plan.cells):
        first, reason = next(iter(results.failed.items()))
        raise RaymdsError(
            f"{len(results.failed)} failed, with {ended} ended: the first, {first.path}: {reason}; the others are in "
            f"{storage.join(plan.uri, 'table.md')}, and the same command runs the failed ones again"
        )
    return found


def _round(results: Results, left: dict[Job, Config], show: Show) -> bool:
    """Run the jobs that can run now; whether somebody wished the study to stop."""
    plan = results.plan
    old = storage.join(plan.uri, "old")
    jobs = {job.path: job for job in left}
    work, at_once = {}, []
    for job, config in left.items():
        try:
            placed, fitting = concurrent(config, room(show, growing=config.run.autoscaling))
        except UsageError as error:
            raise named(job, error) from None
        at_once.append(fitting)
        work[job.path] = grid.Work(placed, old, isinstance(job, Trial))
    cycles = "1 cycle" if len(work) == 1 else f"{len(work)} cycles"
    show({"event": "phase", "phase": f"{cycles} to run, {min(at_once)} at a time"})

    def ended(name: str, failure: str | None) -> None:
        job = jobs[name]
        if failure is not None:
            results.failed[job] = failure
        elif not results.look(job):
            return  # stopped
        show({"event": "cell", "run": name, "failure": failure} | _found(results, job))
        write_tables(results)

    return grid.run(work, min(at_once), ended, show)


def _found(results: Results, job: Job) -> dict[str, Any]:
    """What a job that has ended is shown with."""
    if isinstance(job, Cell):
        count = {"done": len(results.cells), "total": len(results.plan.cells)}
        return {"result": results.cells.get(job), **count}
    return {"result": results.trials.get(job), "done": len(results.trials), "total": len(results.plan.trials)}


def _configs(plan: Plan) -> dict[Job, Config]:
    """The config of every trial, and of every cell with the first setting of its method.

    Trials first, then the cells with the fewest retained examples: what a method is prepared with.
    """

    def order(job: Job) -> int:
        return job.retained or 0 if isinstance(job, Cell) else -1

    def setting(job: Job) -> Setting:
        return plan.settings[job.method][job.number if isinstance(job, Trial) else 0]

    return {job: plan.config(job, setting(job)) for job in sorted(plan.jobs, key=order)}


def _silent(record: dict[str, Any]) -> None:
    """What every cell would say again."""
