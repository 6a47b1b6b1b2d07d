-- Adds jobs. ARGV: 3 most jobs, then of each its member and its delay. Returns the places of those there is no room for, from 0.
local most = tonumber(ARGV[3])
local members = {}
for i = 4, #ARGV, 2 do members[#members + 1] = ARGV[i] end
local states = states_of(members)

-- Most are new and due: those are added together.
local fresh = 'w' .. stamped_now .. stamped_now .. '0'
local seen, entries, places = {}, {}, {}
local function add()
  if #entries > 0 then
    call('HSET', JOBS, unpack(entries))
    call('ZADD', WAITING, unpack(places))
  end
  entries, places = {}, {}
end

local size, untaken = call('HLEN', JOBS), {}
local size_after = size + #members
for n, member in ipairs(members) do
  local state, delay = states[n], ARGV[n * 2 + 3]
  local due = delay == '0' and now or now + tonumber(delay)
  if seen[member] then
    add()
    state = call('HGET', JOBS, member)
  end
  seen[member] = true
  local kind, at, claims, since, fence, again
  if state then kind, at, claims, since, fence, again = parse(state) end
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
  elseif not is_crowded(member, size_after) then
    if size >= most then
      untaken[#untaken + 1] = n - 1
    elseif due > now then
      put(member, due, 0)
      size = size + 1
    else
      local group = group_of(member)
      entries[#entries + 1] = member
      entries[#entries + 1] = fresh
      places[#places + 1] = 0
      places[#places + 1] = group .. '\0' .. stamped_now .. member
      added[group] = true
      count_in(group)
      size = size + 1
    end
  end
end
add()
finish()
return untaken
