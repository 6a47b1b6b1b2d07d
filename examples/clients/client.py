"""A client of the API in Python 3.9 or later: PGW_URL=http://127.0.0.1:3000/api PGW_KEY=pgw_test_… python3 client.py"""
import json, os, time, urllib.error, urllib.request, uuid


class Pgw:
    def __init__(self, url, key):
        self.url, self.key = url, key

    def call(self, method, path, body=None, wait=None, key=None):
        """Safe to repeat: every try of one call carries the same idempotency key."""
        headers = {"X-API-Key": self.key}
        if method != "GET":
            headers |= {"Idempotency-Key": key or str(uuid.uuid4()), "Content-Type": "application/json"}
        if wait is not None:
            headers["Prefer"] = f"wait={wait}"
        data = None if body is None else json.dumps(body).encode()
        for tries in range(1, 6):
            request = urllib.request.Request(self.url + path, data, headers, method=method)
            try:
                with urllib.request.urlopen(request, timeout=40) as answer:
                    return json.loads(answer.read() or b"null")
            except urllib.error.HTTPError as error:
                after = error.headers.get("Retry-After")
                if tries == 5 or (after is None and error.code not in (429, 503)):
                    raise RuntimeError(json.loads(error.read())) from None
                time.sleep(max(float(after or 0), 0.1 * 2**tries))
            except OSError:
                if tries == 5:
                    raise
                time.sleep(0.1 * 2**tries)


if __name__ == "__main__":
    pgw = Pgw(os.environ["PGW_URL"], os.environ["PGW_KEY"])
    order = {"amount": "49.99", "currency": "USD", "customer_email": "ada@example.com", "customer_name": "Ada Lovelace"}
    payment = pgw.call("POST", "/payments", order, wait=10)
    refund = pgw.call("POST", f"/payments/{payment['id']}/refunds", {"amount": "20.00"})
    print(payment["id"], payment["status"], refund["status"])
