// The receiver of the seed profile, as the seed prints it: from `require` to the end of the function it is verbatim, and stays so. It verifies
// what `JSON.stringify` makes of a parsed body, not the bytes that came.

const crypto = require('crypto');

const verifyWebhookSignature = (payload, signature, secret, timestamp) => {
  // Check timestamp (5 minute tolerance)
  const now = Date.now();
  if (Math.abs(now - parseInt(timestamp)) > 5 * 60 * 1000) {
    return false;
  }
  
  // Verify HMAC
  const message = `${timestamp}.${JSON.stringify(payload)}`;
  const expected = crypto.createHmac('sha256', secret)
    .update(message)
    .digest('hex');
  
  return crypto.timingSafeEqual(
    Buffer.from(signature),
    Buffer.from(expected)
  );
};

module.exports = { verifyWebhookSignature };
