// graphile-worker: addJobs for many; a worker as the environment says: with or without its local queue and batched completion.

import { createRequire } from "node:module";
import { openSync, writeSync, appendFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { join } from "node:path";

// Installed in the cache, not beside this file.
const { makeWorkerUtils, run, runMigrations, Logger } = createRequire(join(process.env.BENCH_MODULES, "x.js"))("graphile-worker");
const silent = new Logger(() => () => {});
const BATCH = 1000;
const POOL = 8;
const now = () => process.hrtime.bigint();
const seconds = (from) => Number(now() - from) / 1e9;

class Meter {
  constructor(folder) {
    this.folder = folder;
    this.count = 0;
    this.written = 0;
    this.first = this.last = 0n;
    this.buffer = Buffer.alloc(24);
  }
  hit(expected) {
    this.last = now();
    if (this.count++ === 0) this.open();
    if (this.count === expected) this.write();
  }
  open() {
    this.first = this.last;
    this.file = openSync(join(this.folder, `count-${process.pid}`), "w");
    this.write();
    // No memory map here: the file is written at the first and the last job, and every 5 ms between.
    setInterval(() => this.written !== this.count && this.write(), 5).unref();
  }
  write() {
    this.buffer.writeBigInt64LE(this.first, 0);
    this.buffer.writeBigInt64LE(this.last, 8);
    this.buffer.writeBigInt64LE(BigInt(this.count), 16);
    this.written = this.count;
    writeSync(this.file, this.buffer, 0, 24, 0);
  }
  ping(sent) {
    appendFileSync(join(this.folder, `ping-${process.pid}`), `${now() - BigInt(sent)}\n`);
  }
}

async function work() {
  const meter = new Meter(process.env.BENCH_METER);
  const expected = Number(process.env.BENCH_EXPECT);
  const concurrentJobs = Number(process.env.BENCH_CONCURRENCY);
  const worker = { connectionString: process.env.BENCH_URL, concurrentJobs, maxPoolSize: Math.max(10, concurrentJobs + 2) };
  if (process.env.BENCH_LOCAL_QUEUE)
    Object.assign(worker, { localQueue: { size: Number(process.env.BENCH_LOCAL_QUEUE) }, completeJobBatchDelay: 0, failJobBatchDelay: 0 });
  const runner = await run({
    preset: { worker: { ...worker, logger: silent } },
    taskList: {
      noop: async () => meter.hit(expected),
      ping: async (payload) => meter.ping(payload.sent_ns),
      filler: async () => {},
    },
  });
  await runner.promise;
}

const driver = {
  async connect(url, clients) {
    if (this.url === url && this.clients === clients) return;
    await this.close();
    Object.assign(this, { url, clients });
    this.utils = await makeWorkerUtils({ connectionString: url, maxPoolSize: Math.max(2, Math.min(clients, POOL)), logger: silent });
  },
  async setup() {
    await runMigrations({ connectionString: this.url, logger: silent });
    return {};
  },
  async many({ count }) {
    const began = now();
    for (let start = 0; start < count; start += BATCH) {
      const jobs = Array.from({ length: Math.min(BATCH, count - start) }, () => ({ identifier: "noop", payload: {} }));
      await this.utils.addJobs(jobs);
    }
    return { seconds: seconds(began) };
  },
  async single({ clients, seconds: length }) {
    await Promise.all(Array.from({ length: clients }, () => this.utils.addJob("noop", {})));
    const took = [];
    const began = now();
    const client = async () => {
      while (seconds(began) < length) {
        const at = now();
        await this.utils.addJob("noop", {});
        took.push(Number(now() - at));
      }
    };
    await Promise.all(Array.from({ length: clients }, client));
    return { seconds: seconds(began), count: took.length, took: took.sort((a, b) => a - b) };
  },
  async pings({ count, gap_s, urgent }) {
    for (let i = 0; i < count; i++) {
      await new Promise((wake) => setTimeout(wake, 1000 * gap_s * (0.75 + (0.5 * ((i * 7) % 11)) / 11)));
      await this.utils.addJob("ping", { sent_ns: String(now()) }, { priority: urgent ? -10 : 0 });
    }
    return {};
  },
  async templates() {
    await this.utils.addJob("filler", {}, { priority: 10 });
    await this.utils.addJob("filler", {}, { runAt: new Date(Date.now() + 86400e3) });
    return {};
  },
  async close() {
    if (this.utils) await this.utils.release();
    this.utils = this.url = undefined;
    return {};
  },
};

async function serve() {
  for await (const line of createInterface({ input: process.stdin })) {
    let answer;
    try {
      const { do: verb, url, ...rest } = JSON.parse(line);
      if (verb !== "close") await driver.connect(url, rest.clients ?? 1);
      answer = await driver[verb](rest);
    } catch (error) {
      answer = { error: String(error?.stack ?? error) };
    }
    process.stdout.write(JSON.stringify(answer) + "\n");
  }
  await driver.close();
}

await (process.argv[2] === "work" ? work() : serve());
