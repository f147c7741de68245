// What the login of DATABASE_URL sees: per model how many rows and which, per relation which row
// leads to which, per enumeration how many rows have each value. One JSON document on stdout.
//
// Every model, relation and enumeration of schema.prisma is used by name, so that the compiler
// refuses this file when one of them changes.

import { PrismaPg } from "@prisma/adapter-pg";
import {
  PrismaClient,
  advisory_severity,
  artifact_status,
  artifact_store,
  event_type,
  log_level,
  project_role,
  project_status,
  run_status,
  run_trigger,
  workflow_type,
} from "../generated/client.ts";

// Rows listed by id, the oldest first; counts are of all rows.
const LISTED = 1000;

// Ids of events and log lines have 64 bits; they count from 1 and stay far below 2^53.
type Row = { id: number | bigint };
type Pair = [from: number, to: number];

const listed = { orderBy: { id: "asc" }, take: LISTED } as const;
const id = { select: { id: true } } as const;

async function models(prisma: PrismaClient) {
  const page = { ...listed, ...id };
  const seen = async (count: Promise<number>, rows: Promise<Row[]>) => ({
    count: await count,
    ids: (await rows).map((row) => Number(row.id)),
  });
  return {
    project_memberships: await seen(
      prisma.project_memberships.count(),
      prisma.project_memberships.findMany(page),
    ),
    projects: await seen(prisma.projects.count(), prisma.projects.findMany(page)),
    run_artifacts: await seen(prisma.run_artifacts.count(), prisma.run_artifacts.findMany(page)),
    run_events: await seen(prisma.run_events.count(), prisma.run_events.findMany(page)),
    run_logs: await seen(prisma.run_logs.count(), prisma.run_logs.findMany(page)),
    runs: await seen(prisma.runs.count(), prisma.runs.findMany(page)),
    tools: await seen(prisma.tools.count(), prisma.tools.findMany(page)),
    upgrade_advisories: await seen(
      prisma.upgrade_advisories.count(),
      prisma.upgrade_advisories.findMany(page),
    ),
    workflows: await seen(prisma.workflows.count(), prisma.workflows.findMany(page)),
  };
}

function pairs<T extends Row>(rows: T[], to: (row: T) => Row | Row[] | null): Pair[] {
  return rows.flatMap((row) =>
    [to(row) ?? []].flat().map((other): Pair => [Number(row.id), Number(other.id)]),
  );
}

async function relations(prisma: PrismaClient) {
  const many = { select: { id: true }, orderBy: { id: "asc" } } as const;
  const memberships = await prisma.project_memberships.findMany({
    ...listed,
    select: { id: true, project: id },
  });
  const projects = await prisma.projects.findMany({
    ...listed,
    select: { id: true, project_memberships: many, runs: many, workflows: many },
  });
  const workflows = await prisma.workflows.findMany({
    ...listed,
    select: { id: true, project: id, runs: many },
  });
  const runs = await prisma.runs.findMany({
    ...listed,
    select: {
      id: true,
      project: id,
      workflow: id,
      retried_run: id,
      retries: many,
      run_artifacts: many,
      run_events: many,
      run_logs: many,
    },
  });
  const ofRun = { ...listed, select: { id: true, run: id } };
  return {
    "project_memberships.project": pairs(memberships, (row) => row.project),
    "projects.project_memberships": pairs(projects, (row) => row.project_memberships),
    "projects.runs": pairs(projects, (row) => row.runs),
    "projects.workflows": pairs(projects, (row) => row.workflows),
    "workflows.project": pairs(workflows, (row) => row.project),
    "workflows.runs": pairs(workflows, (row) => row.runs),
    "runs.project": pairs(runs, (row) => row.project),
    "runs.workflow": pairs(runs, (row) => row.workflow),
    "runs.retried_run": pairs(runs, (row) => row.retried_run),
    "runs.retries": pairs(runs, (row) => row.retries),
    "runs.run_artifacts": pairs(runs, (row) => row.run_artifacts),
    "runs.run_events": pairs(runs, (row) => row.run_events),
    "runs.run_logs": pairs(runs, (row) => row.run_logs),
    "run_artifacts.run": pairs(await prisma.run_artifacts.findMany(ofRun), (row) => row.run),
    "run_events.run": pairs(await prisma.run_events.findMany(ofRun), (row) => row.run),
    "run_logs.run": pairs(await prisma.run_logs.findMany(ofRun), (row) => row.run),
  };
}

// By a filter for each value: reading alone would not show whether PostgreSQL knows the type.
async function enumerations(prisma: PrismaClient) {
  const counts = async <T extends string>(
    values: Record<string, T>,
    count: (value: T) => Promise<number>,
  ) => {
    const found: Record<string, number> = {};
    for (const value of Object.values(values)) {
      found[value] = await count(value);
    }
    return found;
  };
  return {
    "project_memberships.role": await counts(project_role, (role) =>
      prisma.project_memberships.count({ where: { role } }),
    ),
    "projects.status": await counts(project_status, (status) =>
      prisma.projects.count({ where: { status } }),
    ),
    "run_artifacts.status": await counts(artifact_status, (status) =>
      prisma.run_artifacts.count({ where: { status } }),
    ),
    "run_artifacts.store": await counts(artifact_store, (store) =>
      prisma.run_artifacts.count({ where: { store } }),
    ),
    "run_events.event_type": await counts(event_type, (kind) =>
      prisma.run_events.count({ where: { event_type: kind } }),
    ),
    "run_logs.log_level": await counts(log_level, (level) =>
      prisma.run_logs.count({ where: { log_level: level } }),
    ),
    "runs.status": await counts(run_status, (status) => prisma.runs.count({ where: { status } })),
    "runs.trigger": await counts(run_trigger, (trigger) =>
      prisma.runs.count({ where: { trigger } }),
    ),
    "runs.workflow_type": await counts(workflow_type, (kind) =>
      prisma.runs.count({ where: { workflow_type: { in: [kind] } } }),
    ),
    "upgrade_advisories.severity": await counts(advisory_severity, (severity) =>
      prisma.upgrade_advisories.count({ where: { severity } }),
    ),
    "workflows.workflow_type": await counts(workflow_type, (kind) =>
      prisma.workflows.count({ where: { workflow_type: kind } }),
    ),
  };
}

const connectionString = process.env["DATABASE_URL"];
if (!connectionString) {
  console.error("DATABASE_URL is not set: postgresql://login:password@host:port/database");
  process.exit(2);
}
const prisma = new PrismaClient({ adapter: new PrismaPg({ connectionString }) });
try {
  const visible = {
    models: await models(prisma),
    relations: await relations(prisma),
    enumerations: await enumerations(prisma),
  };
  console.log(JSON.stringify(visible));
} finally {
  await prisma.$disconnect();
}
