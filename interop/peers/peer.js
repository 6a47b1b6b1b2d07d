// The JavaScript side: answers each line of its standard input, a request in JSON, with one line in JSON. It signs and verifies with the libraries
// alone and decides nothing; what the answers should have been is known to the Rust side.

const standardwebhooks = require('standardwebhooks');
const Stripe = require('stripe');
// The newest svix that runs on Node 20; from 2.0.0 on it needs 22.
const svix = require('svix');
const seed = require('./seed');

// A library takes the body as the bytes that came. It refuses with an error of the class `Refusal`; any other error is a fault of this program's,
// and must not pass for a refusal.
const libraries = {
  standardwebhooks: standard(standardwebhooks),
  svix: standard(svix),
  stripe: {
    Refusal: Stripe.errors.StripeSignatureVerificationError,
    sign: (secret, id, sent, body) =>
      Stripe.webhooks.generateTestHeaderString({ payload: body.toString(), secret, timestamp: sent }),
    verify: (secret, headers, body) => Stripe.webhooks.constructEvent(body, headers['stripe-signature'], secret),
  },
  // It has no function that signs.
  seed: {
    // A receiver whose parser refuses the body does not get as far as the signature.
    Refusal: SyntaxError,
    verify: (secret, headers, body) => {
      const payload = JSON.parse(body.toString());
      return seed.verifyWebhookSignature(payload, headers['x-webhook-signature'], secret, headers['x-webhook-timestamp']);
    },
  },
};

function standard({ Webhook, WebhookVerificationError }) {
  return {
    Refusal: WebhookVerificationError,
    sign: (secret, id, sent, body) => new Webhook(secret).sign(id, new Date(sent * 1000), body),
    verify: (secret, headers, body) => new Webhook(secret).verify(body, headers),
  };
}

function answer({ library: name, body: encoded, secrets, sign, verify }) {
  const library = libraries[name];
  const body = Buffer.from(encoded, 'base64');
  if (sign) {
    return { signatures: secrets.map((secret) => library.sign(secret, sign.id, sign.sent, body)) };
  }
  const headers = Object.fromEntries(verify.headers);
  return { verdicts: secrets.map((secret) => verdict(library, secret, headers, body)) };
}

function verdict(library, secret, headers, body) {
  try {
    // The libraries throw where the seed's function returns false.
    return library.verify(secret, headers, body) === false ? { refused: 'false' } : 'accepted';
  } catch (error) {
    if (!(error instanceof library.Refusal)) throw error;
    // A message may quote the body, cut in the middle of a surrogate pair, and then it is no JSON that the other side takes.
    return { refused: error.message.toWellFormed() };
  }
}

function reply(line) {
  try {
    return answer(JSON.parse(line));
  } catch (error) {
    return { fault: String(error.stack).toWellFormed() };
  }
}

let pending = [];
// Not `readline`: it ends lines at U+2028 too.
process.stdin.on('data', (chunk) => {
  let end;
  while ((end = chunk.indexOf(10)) !== -1) {
    const line = Buffer.concat([...pending, chunk.subarray(0, end)]).toString();
    pending = [];
    chunk = chunk.subarray(end + 1);
    process.stdout.write(`${JSON.stringify(reply(line))}\n`);
  }
  pending.push(chunk);
});
