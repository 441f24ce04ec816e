# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""One of two workers is killed in the middle: nothing is lost, doubled or changed."""

from __future__ import annotations

from limio_limitrail.emulator import Fault
from tests.support.airflow_cluster import lives
from tests.support.airflow_whole import Run
from tests.support.cluster_world import HOURS, PARK, PULL, RESEND, ROWS_IN_DOUBT, ClusterWorld
from tests.support.pages import blocks

AN_HOUR = 2_000
ROWS = 5_000


def tried_again(run: Run) -> set[str]:
    return {name for name, task in run.tasks.items() if task.tries > 1}


def test_a_pull_in_slices(world: ClusterWorld) -> None:
    day = "2026-03-01"
    world.list_usage(day, an_hour=AN_HOUR)
    world.airflow.have_workers(2)
    run_id = world.begin(PULL, day)
    lost = set()
    for task in ("land", "usage"):
        lost |= world.kill_in_the_middle(
            PULL,
            run_id,
            task_id=task,
            when=lambda mine, task=task: (
                world.succeeded(PULL, run_id, task_id=task) >= 4 and bool(mine & world.airflow.tasks_with_state(PULL, run_id))
            ),
        )
        world.airflow.have_workers(2)
    run = world.finish(PULL, run_id)
    assert {task.state for task in run.tasks.values()} == {"success"}, run
    assert run.state == "success"
    assert tried_again(run) == lost
    for task in ("usage", "land"):
        assert [run.tasks[f"{task}[{hour}]"].xcom["rows"] for hour in range(HOURS)] == [AN_HOUR] * HOURS
    world.check_pulled(day, an_hour=AN_HOUR)
    # They went on: what the tries before had landed was not asked for again.
    assert sum(run.tasks[name].xcom["requests"] for name in lost) < 12 * len(lost)
    # Somebody clears it, or a worker dies before it could say that it was done: made again, it changes nothing.
    world.airflow.clear(PULL, run_id, "usage[0]", "land[1]", "load[1]")
    assert world.finish(PULL, run_id).state == "success"
    assert {"usage[0]", "land[1]", "load[1]"} <= tried_again(world.airflow.run(PULL, run_id))
    world.check_pulled(day, an_hour=AN_HOUR)


def test_a_commit_whose_tasks_outlive_their_worker(world: ClusterWorld) -> None:
    """Nobody ends them, and Airflow begins the next tries beside them."""
    day = "2026-03-04"
    world.fill_usage(day, rows=2_000, shards="01234567")
    world.airflow.have_workers(2)
    slow = world.emulator.faults.add(Fault("latency", match="/v1/usage/commit", method="POST", seconds=0.5, times=None))
    run_id = world.begin(PARK, day)
    world.airflow.wait_for(lambda: world.committed() > 100, "rows are sent")
    orphans = world.airflow.kill_all_but_tasks("worker-2", PARK, run_id)
    assert orphans
    world.airflow.have_workers(2)

    def beside() -> bool:
        tasks = world.airflow.run(PARK, run_id).tasks
        return any(tasks[name].tries == 2 and tasks[name].state == "running" and lives(pid) for name, pid in orphans.items())

    world.airflow.wait_for(beside, "a task is tried anew beside its first try")
    run = world.finish(PARK, run_id)
    world.airflow.wait_for(lambda: not any(map(lives, orphans.values())), "the first tries have ended")
    world.emulator.faults.remove(slow.number)
    states = {key: entry["state"] for key, entry in world.ledger().items()}
    assert len(states) == 2_000
    assert set(states.values()) <= {"committed", "parked"}
    parked = {key for key, state in states.items() if state == "parked"}
    assert len(parked) <= ROWS_IN_DOUBT * len(orphans)
    # The later tries parked what the first ones were sending, and the first ones still wrote down their answers.
    assert run.state == "failed" or not parked
    assert set(states) - parked <= set(world.carried_out())
    assert world.run(PARK, day).state == ("failed" if parked else "success")
    assert set(world.requests.values()) == {1}


def finish_without_a_worker(world: ClusterWorld, dag_id: str, day: str) -> tuple[Run, set[str], set[str]]:
    """Commit a day's usage, and kill a worker in the middle.

    :returns: the run, the tasks that were lost, and the keys of the rows that these were sending.
    """
    world.fill_usage(day, rows=ROWS)
    world.airflow.have_workers(2)
    run_id = world.begin(dag_id, day)
    lost = world.kill_in_the_middle(dag_id, run_id, task_id="commit_usage", when=lambda _: world.committed() > ROWS / 5)
    in_flight = world.sending(lost)
    assert 0 < len(in_flight) <= ROWS_IN_DOUBT * len(lost)
    return world.finish(dag_id, run_id), lost, in_flight


def test_a_commit_in_shards_at_an_api_that_honours_keys(world: ClusterWorld) -> None:
    day = "2026-03-02"
    run, lost, in_flight = finish_without_a_worker(world, RESEND, day)
    assert run.state == "success", run
    assert tried_again(run) == lost
    world.check_committed(day, rows=ROWS)
    twice = {key for key, count in world.requests.items() if count > 1}
    assert twice <= in_flight
    assert max(world.requests.values()) <= 2


def test_a_commit_in_shards_at_an_api_that_may_not(world: ClusterWorld) -> None:
    day = "2026-03-03"
    run, lost, in_flight = finish_without_a_worker(world, PARK, day)
    assert tried_again(run) == lost
    in_doubt = {f"commit_usage[{entry['map_index']}]" for key, entry in world.ledger().items() if key in in_flight}
    assert {name for name, task in run.tasks.items() if task.state != "success"} == in_doubt
    states = {key: entry["state"] for key, entry in world.ledger().items()}
    assert {key for key, state in states.items() if state == "parked"} == in_flight
    assert {state for key, state in states.items() if key not in in_flight} == {"committed"}
    assert len(states) == ROWS
    assert set(world.requests.values()) == {1}
    carried_out = set(world.carried_out())
    assert set(states) - in_flight <= carried_out

    # As docs/how-to/settle-usage.md has it: each is looked up at LimitRail; what is there is settled, what is not is replayed.
    page = "docs/how-to/settle-usage.md"
    look, settle, _ = (block.text for block in blocks(page, section="Parked rows in SQL", language="sql"))
    parked = {key for key, *_ in world.query(look)}
    assert parked == in_flight
    for key in parked & carried_out:
        world.execute(settle.replace("...", key))
    assert world.run(PARK, day, replay="parked").state == "success"
    world.check_committed(day, rows=ROWS)
    assert set(world.requests.values()) == {1}
