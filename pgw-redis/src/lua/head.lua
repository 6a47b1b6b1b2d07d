-- Since when the job that would be claimed first has been due, or ''. Writes nothing.
local function first(key, most)
  local found = call('ZRANGE', key, 0, 0, 'WITHSCORES')[2]
  local at = tonumber(found)
  if at and at <= most then return at end
end
local head = earlier(first(OPEN, now), earlier(first(LATER, now), first(HELD, now)))
return head and stamp(head) or ''
