// A client of the API in Node 18 or later, without dependencies.
// PGW_URL=http://127.0.0.1:3000/api PGW_KEY=pgw_test_… node client.mjs
import { randomUUID } from "node:crypto";

export class Pgw {
  constructor(url, key) {
    Object.assign(this, { url, key });
  }

  // Safe to repeat: every try of one call carries the same idempotency key.
  async call(method, path, body, { wait, key = randomUUID() } = {}) {
    const headers = { "X-API-Key": this.key };
    if (method !== "GET") Object.assign(headers, { "Idempotency-Key": key, "Content-Type": "application/json" });
    if (wait !== undefined) headers.Prefer = `wait=${wait}`;
    for (let tries = 1; ; tries++) {
      const answer = await fetch(this.url + path, { method, headers, body: body && JSON.stringify(body) }).catch((error) => error);
      const again = answer instanceof Error || answer.status === 429 || answer.status === 503 || answer.headers?.has("retry-after");
      if (again && tries < 5) {
        const after = answer instanceof Error ? 0 : Number(answer.headers.get("retry-after") ?? 0);
        await new Promise((done) => setTimeout(done, Math.max(after * 1000, 100 * 2 ** tries)));
        continue;
      }
      if (answer instanceof Error) throw answer;
      const object = answer.status === 204 ? null : await answer.json();
      if (!answer.ok) throw Object.assign(new Error(object.detail), object);
      return object;
    }
  }
}

if (process.argv[1] === import.meta.filename || process.argv[1]?.endsWith("client.mjs")) {
  const pgw = new Pgw(process.env.PGW_URL, process.env.PGW_KEY);
  const order = { amount: "49.99", currency: "USD", customer_email: "ada@example.com", customer_name: "Ada Lovelace" };
  const payment = await pgw.call("POST", "/payments", order, { wait: 10 });
  const refund = await pgw.call("POST", `/payments/${payment.id}/refunds`, { amount: "20.00" });
  console.log(payment.id, payment.status, refund.status);
}
