"""The Python side: answers each line of its standard input, a request in JSON, with one line in JSON.

It signs and verifies with the libraries alone and decides nothing; what the answers should have been is known to the Rust side.
"""

import base64
import json
import sys
import traceback
from datetime import datetime, timezone

import standardwebhooks
import stripe
import svix.webhooks


class Standard:
    """`standardwebhooks`, and `svix`, which has the same interface."""

    def __init__(self, module):
        self.Webhook = module.Webhook
        self.Refusal = module.WebhookVerificationError

    def sign(self, secret, id, sent, body):
        at = datetime.fromtimestamp(sent, tz=timezone.utc)
        return self.Webhook(secret).sign(id, at, body.decode())

    def verify(self, secret, headers, body):
        self.Webhook(secret).verify(body, headers)


class Stripe:
    Refusal = stripe.SignatureVerificationError

    def sign(self, secret, id, sent, body):
        return stripe.WebhookSignature.generate_signature_header(body.decode(), secret, sent)

    def verify(self, secret, headers, body):
        stripe.Webhook.construct_event(body, headers["stripe-signature"], secret)


# A library takes the body as the bytes that came. It refuses with an exception of the class `Refusal`; any other exception is a fault of
# this program's, and must not pass for a refusal.
LIBRARIES = {
    "standardwebhooks": Standard(standardwebhooks),
    "svix": Standard(svix.webhooks),
    "stripe": Stripe(),
}


def answer(request):
    library = LIBRARIES[request["library"]]
    body = base64.b64decode(request["body"])
    secrets = request["secrets"]
    if sign := request.get("sign"):
        return {"signatures": [library.sign(secret, sign["id"], sign["sent"], body) for secret in secrets]}
    headers = dict(request["verify"]["headers"])
    return {"verdicts": [verdict(library, secret, headers, body) for secret in secrets]}


def verdict(library, secret, headers, body):
    try:
        library.verify(secret, headers, body)
    except library.Refusal as error:
        return {"refused": str(error)}
    return "accepted"


def reply(line):
    try:
        return answer(json.loads(line))
    except Exception:
        return {"fault": traceback.format_exc()}


for line in sys.stdin.buffer:
    print(json.dumps(reply(line)), flush=True)
