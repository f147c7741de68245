// graphile-worker as a peer of benchmarks/peers.py: its own runner in this process, unbatched
// (localQueue.size and completeJobBatchDelay are -1, their defaults, set here to be seen), prepared
// statements on (its default). One job is fetched and completed by two statements.
import { EventEmitter } from "node:events";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { Logger, run, runMigrations } from "graphile-worker";
import pg from "pg";

const MILLISECONDS_BETWEEN = 20;
const version = createRequire(import.meta.url)("graphile-worker/package.json").version;
const quiet = new Logger(() => (level, message) => {
  if (level === "error") process.stderr.write(`graphile-worker: ${message}\n`);
});
const pool = new pg.Pool({ max: 2 });
let waits = [];

const taskList = {
  nothing: async () => {},
  measure: async (_payload, helpers) => {
    const { rows } = await helpers.query(
      "SELECT extract(epoch FROM clock_timestamp() - created_at)::float8 * 1000 AS waited " +
        "FROM graphile_worker.jobs WHERE id = $1",
      [helpers.job.id],
    );
    waits.push(rows[0].waited);
  },
};

// The runner with so many jobs at once; its pool has one connection more, for LISTEN.
async function start(connections, events) {
  const workers = new pg.Pool({ max: connections + 1 });
  workers.on("error", () => {});
  const runner = await run({
    pgPool: workers,
    taskList,
    events,
    logger: quiet,
    noHandleSignals: true,
    parsedCronItems: [],
    preset: {
      worker: {
        concurrentJobs: connections,
        localQueue: { size: -1 },
        completeJobBatchDelay: -1,
        failJobBatchDelay: -1,
      },
    },
  });
  return async () => {
    await runner.stop();
    await workers.end();
  };
}

const commands = {
  async queue({ count }) {
    await pool.query(
      "SELECT count(graphile_worker.add_job('nothing', '{}')) FROM generate_series(1, $1::int)",
      [count],
    );
    await pool.query("VACUUM ANALYZE graphile_worker._private_jobs");
    return {};
  },

  async drain({ count, connections }) {
    const events = new EventEmitter();
    let first, completed = 0;
    const all = new Promise((resolve) => {
      events.on("job:complete", () => {
        first ??= performance.now();
        if (++completed === count) resolve(performance.now());
      });
    });
    const stop = await start(connections, events);
    const last = await all;
    await stop();
    const { rows } = await pool.query("SELECT count(*)::int AS left FROM graphile_worker.jobs");
    if (rows[0].left) throw new Error(`${rows[0].left} jobs are left`);
    return { seconds: (last - first) / 1000, jobs: count - 1 };
  },

  async waits({ count }) {
    const events = new EventEmitter();
    const stop = await start(1, events);
    await new Promise((resolve) => setTimeout(resolve, 1000));
    waits = [];
    for (let done = 0; done < count; done++) {
      const completed = new Promise((resolve) => events.once("job:complete", resolve));
      await pool.query("SELECT graphile_worker.add_job('measure', '{}')");
      await completed;
      await new Promise((resolve) => setTimeout(resolve, MILLISECONDS_BETWEEN));
    }
    await stop();
    return { milliseconds: waits };
  },
};

const say = (answer) => process.stdout.write(`${JSON.stringify(answer)}\n`);

await runMigrations({ pgPool: pool, logger: quiet });
say({ version });
for await (const line of createInterface({ input: process.stdin })) {
  const { command, ...options } = JSON.parse(line);
  try {
    say(await commands[command](options));
  } catch (error) {
    say({ error: error.message });
  }
}
await pool.end();
