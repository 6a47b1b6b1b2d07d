-- Ends claims. ARGV: from 3 on, of each its member, its fence, what becomes of it, and with what: d done, r released for so long,
-- p postponed for so long, b buried for this reason. Returns for each whether it was still held.
local held = {}
for i = 3, #ARGV, 4 do
  local member, what, with, is_held = ARGV[i], ARGV[i + 2], ARGV[i + 3], 0
  local kind, at, claims, _, fence, again = read(member)
  if fence and fence == ARGV[i + 1] then
    is_held = 1
    if kind == 'x' then
      unwait(member, at)
    else
      call('ZREM', HELD, member)
      free_share(member)
    end
    if what == 'b' then
      call('HSET', JOBS, member, 'b')
      call('HSET', DEAD, member, with)
    else
      local due = again
      if what == 'd' then
        claims = 0
      else
        due = earlier(again, now + tonumber(with))
        if what == 'p' then claims = math.max(claims - 1, 0) end
      end
      if due then
        -- Whoever says that the row of a postponed one is due knows better.
        put(member, due, claims, what == 'p' and 0 or nil)
      else
        call('HDEL', JOBS, member)
      end
    end
  end
  held[#held + 1] = is_held
end
finish()
return held
