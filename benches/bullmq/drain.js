// How many no-op jobs BullMQ works a second: `node drain.js PORT JOBS`. Prints the number.
const { Queue, Worker } = require('bullmq');

const [port, jobs] = process.argv.slice(2).map(Number);
const connection = { host: '127.0.0.1', port, maxRetriesPerRequest: null };

(async () => {
  const queue = new Queue('drain', { connection });
  for (let first = 0; first < jobs; first += 1000) {
    const length = Math.min(1000, jobs - first);
    const opts = { removeOnComplete: true, removeOnFail: true };
    await queue.addBulk(Array.from({ length }, (_, n) => ({ name: 'nothing', data: { number: first + n }, opts })));
  }
  const start = process.hrtime.bigint();
  let done = 0;
  await new Promise((resolve) => {
    const work = async () => {};
    for (let n = 0; n < 4; n += 1) {
      const worker = new Worker('drain', work, { connection, concurrency: 200 });
      worker.on('completed', () => {
        done += 1;
        if (done === jobs) resolve();
      });
    }
  });
  const seconds = Number(process.hrtime.bigint() - start) / 1e9;
  console.log(Math.round(jobs / seconds));
  process.exit(0);
})();
