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
    step = max(1, len(run_ids) // verified)
    sample = run_ids[::step]
    broken = db.rows(
        f"SELECT v.run_id, v.seq, v.problem FROM unnest(%s::int[]) r, {db.schema}.verify_events(r) v",
        sample,
    )
    if broken:
        problems.append(f"{len(broken)} problems in {len(sample)} chains, first: {broken[0]}")
    return problems


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
