-- The generic cell rate algorithm (GCRA, ITU-T I.371 annex A) of one key. KEYS: 1 what it owes. ARGV: 1 by how much a test moved the clock,
-- 2 the quota, 3 the window in µs. Returns 1 when one more is admitted, and what is owed after that: whole µs, and parts of one by the quota.
-- All numbers are integers below 2^53, so nothing is rounded: a request costs window / quota µs, counted as whole µs and parts.
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000000 + tonumber(t[2]) + tonumber(ARGV[1])
local quota, window = tonumber(ARGV[2]), tonumber(ARGV[3])
local cost, cost_parts = math.floor(window / quota), window % quota
local owed, parts = 0, 0
local kept = redis.call('GET', KEYS[1])
if kept then
  local at, under, of = kept:match('^(%d+) (%d+) (%d+)$')
  at, under, of = tonumber(at), tonumber(under), tonumber(of)
  -- Parts under another quota are rounded up.
  if of ~= quota and under > 0 then at, under = at + 1, 0 end
  if at > now or (at == now and under > 0) then owed, parts = at - now, under end
  -- A clock that went back, as that of a replica may, keeps nobody out for longer than a window.
  if owed >= window then owed, parts = window, 0 end
end
local next_owed, next_parts = owed + cost, parts + cost_parts
if next_parts >= quota then next_owed, next_parts = next_owed + 1, next_parts - quota end
if next_owed > window or (next_owed == window and next_parts > 0) then
  return { 0, owed, parts }
end
local at = now + next_owed
redis.call('SET', KEYS[1], string.format('%.0f %.0f %.0f', at, next_parts, quota), 'PX', math.ceil((next_owed + 1) / 1000))
return { 1, next_owed, next_parts }
