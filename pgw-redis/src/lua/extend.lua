-- Holds claims longer. ARGV: 3 for how long, then of each its member and its fence. Returns for each whether it was still held.
local till = now + tonumber(ARGV[3])
local held = {}
for i = 4, #ARGV, 2 do
  local member, is_held = ARGV[i], 0
  local kind, at, claims, since, fence, again = read(member)
  if fence and fence == ARGV[i + 1] then
    if kind == 'x' then
      -- It takes its room back, whoever is there by now.
      unwait(member, at)
      take_share(member)
    end
    hold(member, 'h', till, fence, since, claims, again)
    call('ZADD', HELD, till, member)
    is_held = 1
  end
  held[#held + 1] = is_held
end
finish()
return held
