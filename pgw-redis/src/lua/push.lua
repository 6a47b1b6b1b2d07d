-- Adds jobs. ARGV: 3 most jobs, then of each its member and its delay. Returns how many were looked at: fewer than were given when there is no
-- room.
local most = tonumber(ARGV[3])
local size, looked = call('HLEN', JOBS), 0
for i = 4, #ARGV, 2 do
  local member, due = ARGV[i], now + tonumber(ARGV[i + 1])
  local kind, at, claims, since, fence, again = read(member)
  if kind == 'l' then
    -- Put anew also where the index has lost it.
    if due < at or not call('ZSCORE', LATER, member) then
      call('ZREM', LATER, member)
      put(member, math.min(due, at), claims)
    end
  elseif kind == 'w' then
    if due < at then
      unwait(member, at)
      put(member, due, claims)
    else
      wait(member, at)
    end
  elseif kind == 'h' or kind == 'x' then
    mend(member, kind, at, fence, since, claims, earlier(again, due))
  elseif kind == 'b' then
    call('HDEL', DEAD, member)
    put(member, due, 0)
  elseif not is_crowded(member) then
    if size >= most then break end
    put(member, due, 0)
    size = size + 1
  end
  looked = looked + 1
end
finish()
return looked
