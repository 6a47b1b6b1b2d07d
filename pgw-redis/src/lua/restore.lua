-- Puts back jobs that were lost. ARGV: 3 most jobs, then of each its member and for how long its row has been due. One that is there stays as
-- it is, unless its row became due after it was put there or claimed. Returns how many were lost, and how many were looked at: fewer than were
-- given when there is no room.
local most = tonumber(ARGV[3])
local size, lost, looked = call('HLEN', JOBS), 0, 0
for i = 4, #ARGV, 2 do
  local member, row_since = ARGV[i], now - tonumber(ARGV[i + 1])
  local kind, at, claims, since, fence, again = read(member)
  if kind == 'l' then
    local is_news = row_since > since
    if is_news or not call('ZSCORE', LATER, member) then
      call('ZREM', LATER, member)
      put(member, is_news and now or at, claims)
    end
  elseif kind == 'w' then
    wait(member, at)
  elseif kind == 'h' or kind == 'x' then
    if row_since > since then again = earlier(again, now) end
    mend(member, kind, at, fence, since, claims, again)
  elseif kind ~= 'b' and not is_crowded(member, size) then
    if size >= most then break end
    put(member, now, 0)
    count_in(group_of(member))
    size, lost = size + 1, lost + 1
  end
  looked = looked + 1
end
finish()
return { lost, looked }
