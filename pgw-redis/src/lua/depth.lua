-- How full it is: ready, delayed, in flight, dead, and for how many µs the oldest ready one has been due. Writes nothing.
local over = '(' .. stamp(now)
local function due(key) return call('ZCOUNT', key, '-inf', now) end
local oldest
for _, key in ipairs({ OPEN, FULL, LATER, HELD }) do
  local at = tonumber(call('ZRANGE', key, 0, 0, 'WITHSCORES')[2])
  if at and at <= now then oldest = earlier(oldest, at) end
end
local ready = call('ZCARD', WAITING) + due(LATER) + due(HELD)
return {
  ready,
  call('ZCOUNT', LATER, over, '+inf'),
  call('ZCOUNT', HELD, over, '+inf'),
  call('HLEN', DEAD),
  oldest and now - oldest or 0,
}
