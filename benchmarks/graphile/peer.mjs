// graphile-worker as a peer of benchmarks/peers.py: its own runner in this process, unbatched
// (localQueue.size and completeJobBatchDelay are -1, their defaults, set here to be seen), prepared
// statements on (its default). One job is fetched and completed by two statements.
import { EventEmitter } from "node:events";
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { setTimeout as pause } from "node:timers/promises";
import { Logger, run, runMigrations } from "graphile-worker";
import pg from "pg";

const MILLISECONDS_BETWEEN = 20;
const { version } = JSON.parse(
  readFileSync(new URL("node_modules/graphile-worker/package.json", import.meta.url), "utf8"),
);
const quiet = new Logger(() => (level, message) => {
  if (level === "error") process.stderr.write(`graphile-worker: ${message}\n`);
});
const pool = new pg.Pool({ max: 2 });
pool.on("error", () => {});
pool.on("connect", (client) => client.on("error", () => {}));
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

// The runner with so many jobs at once; it makes its own pool. A job's completion is written while the
// next is fetched, so one connection per job would hold it back.
async function start(connections, events) {
  const runner = await run({
    taskList,
    events,
    logger: quiet,
    noHandleSignals: true,
    parsedCronItems: [],
    preset: {
      worker: {
        concurrentJobs: connections,
        maxPoolSize: 2 * connections + 1,
        localQueue: { size: -1 },
        completeJobBatchDelay: -1,
        failJobBatchDelay: -1,
      },
    },
  });
  return () => runner.stop();
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
        if (++completed === count) resolve();
      });
    });
    const stop = await start(connections, events);
    await all;
    // The event comes before the completion is written: the end is when no job is left.
    while ((await pool.query("SELECT FROM graphile_worker.jobs LIMIT 1")).rowCount) await pause(1);
    const last = performance.now();
    await stop();
    return { seconds: (last - first) / 1000, jobs: count - 1 };
  },

  async waits({ count }) {
    const events = new EventEmitter();
    const stop = await start(1, events);
    await pause(1000);
    waits = [];
    for (let done = 0; done < count; done++) {
      const completed = new Promise((resolve) => events.once("job:complete", resolve));
      await pool.query("SELECT graphile_worker.add_job('measure', '{}')");
      await completed;
      await pause(MILLISECONDS_BETWEEN);
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
