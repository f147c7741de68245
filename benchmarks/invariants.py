"""What must hold after every measurement, however fast it was. Each function gives sentences."""

VERIFIED = 200  # chains computed again per measurement


def of_finished(db, run_ids, verified=VERIFIED):
    """Problems of runs that the driver has completed, each of them once and with success."""
    problems = []
    if len(set(run_ids)) != len(run_ids):
        problems.append(f"{len(run_ids) - len(set(run_ids))} runs were completed more than once")
    statuses = db.rows(
        "SELECT status, count(*) FROM ops_run WHERE id = ANY(%s) GROUP BY status", run_ids
    )
    if run_ids and statuses != [("succeeded", len(set(run_ids)))]:
        problems.append(f"{len(set(run_ids))} runs were completed, but the table says {statuses}")
    problems += _of_events(db, run_ids, verified)
    return problems


def _of_events(db, run_ids, verified):
    """queued, claimed, running, succeeded: four events, numbered, chained."""
    wrong = db.value(
        "SELECT count(*) FROM unnest(%s::int[]) r WHERE (SELECT array_agg(e.message ORDER BY e.seq)"
        " FROM ops_run_event e WHERE e.run_id = r AND e.event_type = 'state_change')"
        " IS DISTINCT FROM '{queued,claimed,running,succeeded}'",
        run_ids,
    )
    problems = [f"{wrong} runs have other events than their four"] if wrong else []
    return problems + of_chains(db, run_ids[:: max(1, len(run_ids) // verified)])


def of_chains(db, run_ids):
    """Problems in the chains of events, every hash computed again."""
    broken = db.rows(
        "SELECT v.run_id, v.seq, v.problem FROM unnest(%s::int[]) r,"
        f" {db.schema}.verify_events(r) v",
        run_ids,
    )
    if not broken:
        return []
    return [f"{len(broken)} problems in {len(run_ids)} chains, first: {broken[0]}"]


def of_rest(db, queued):
    """Problems of a database at rest in which so many runs should be queued."""
    problems = []
    active, found, leases = db.rows(
        "SELECT count(*) FILTER (WHERE status IN ('claimed', 'running')),"
        " count(*) FILTER (WHERE status = 'queued'), (SELECT count(*) FROM ops_run_lease)"
        " FROM ops_run WHERE status IN ('queued', 'claimed', 'running')"
    )[0]
    if active:
        problems.append(f"{active} runs are still claimed or running")
    if leases:
        problems.append(f"{leases} leases are left")
    if found != queued:
        problems.append(f"{queued} runs should be queued, {found} are")
    return problems
