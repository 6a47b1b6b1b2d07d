-- Claims jobs. ARGV: 3 how many, 4 for how long, 5 what their fences begin with (12 digits), 6 most claims of a job, 7 how many ms the keys
-- outlive the last claim, 8 since when a job must have been due at the latest, '' for now. Returns since when the first one left has been
-- due, or ''; of each claimed job its member, its fence and how often it was claimed; and 1 when there are more leases to end or jobs to come due.
local most, lease, fences = tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local claims_max, ttl, limit = tonumber(ARGV[6]), ARGV[7], tonumber(ARGV[8]) or now
local till = now + lease
local stamped_till = stamp(till)

-- There is no job, and nothing that still names one whose state was evicted.
if call('EXISTS', JOBS, HELD, LATER, OPEN) == 0 then return { '', {}, 0 } end

-- So many leases end and jobs come due in one call: what is left waits for the next.
local STEPS = 1000

local ended = call('ZRANGEBYSCORE', HELD, '-inf', now, 'LIMIT', 0, STEPS)
for _, member in ipairs(ended) do
  call('ZREM', HELD, member)
  free_share(member)
  local kind, at, claims, since, fence, again = read(member)
  if kind == 'h' then
    hold(member, 'x', at, fence, since, claims, again)
    wait(member, at)
  end
end
local due = call('ZRANGEBYSCORE', LATER, '-inf', now, 'LIMIT', 0, STEPS)
for _, member in ipairs(due) do
  call('ZREM', LATER, member)
  local state = call('HGET', JOBS, member)
  local kind, at = parse(state or '')
  if kind == 'l' then
    call('HSET', JOBS, member, 'w' .. sub(state, 2))
    wait(member, at)
  end
end
finish()

local function bury(member)
  call('HSET', JOBS, member, 'b')
  call('HSET', DEAD, member, 'claimed ' .. claims_max .. ' times and never done')
end

local given, number = {}, 0
-- Gives out the jobs of a group that have been due for longest.
local function give(group, upto, room)
  -- What waits was due when it was put there, also where the clock has gone back since.
  local last = upto == now and '(' .. group .. '\1' or '[' .. group .. '\0' .. stamp(upto) .. '\255'
  local places = call('ZRANGEBYLEX', WAITING, '[' .. group .. '\0', last, 'LIMIT', 0, room)
  -- Of a group of which all are given out there is nothing to look up.
  if upto == now and #places < room and #places > 0 then
    call('ZREM', OPEN, group)
  else
    touched[group] = true
  end
  if #places == 0 then return end
  local members, dues_at, members_at = {}, #group + 2, #group + 18
  for n, place in ipairs(places) do members[n] = sub(place, members_at) end
  local states = call('HMGET', JOBS, unpack(members))
  call('ZREM', WAITING, unpack(places))
  local leases, entries, shares = {}, {}, {}
  for n, member in ipairs(members) do
    local state = states[n]
    -- One without a state was evicted, and comes back by a push; one with another is elsewhere by now.
    local is_there = state and sub(state, 2, 17) == sub(places[n], dues_at, members_at - 1)
    local kind, _, claims, again = is_there and sub(state, 1, 1)
    if kind == 'w' then
      claims = tonumber(sub(state, 34))
    elseif kind == 'x' then
      _, _, claims, _, _, again = parse(state)
    end
    if claims then
      if claims >= claims_max then
        bury(member)
      else
        -- A push that is due by now is what this claim is for; a later one still waits.
        local tail = (again and again > now) and (':' .. stamp(again)) or ''
        local fence = fences .. format('%04x', number)
        number = number + 1
        entries[#entries + 1] = member
        local times = claims == 0 and '1' or format('%.0f', claims + 1)
        entries[#entries + 1] = 'h' .. stamped_till .. fence .. stamped_now .. times .. tail
        leases[#leases + 1] = till
        leases[#leases + 1] = member
        given[#given + 1] = member
        given[#given + 1] = fence
        given[#given + 1] = claims + 1
        shares[#shares + 1] = 0
        shares[#shares + 1] = group .. '\0' .. member
      end
    end
  end
  if #entries > 0 then
    call('HSET', JOBS, unpack(entries))
    call('ZADD', HELD, unpack(leases))
    if bound > 0 then call('ZADD', SHARES, unpack(shares)) end
  end
end

-- One of the full groups a call, in turn: a share whose holder was evicted is nobody's.
local full = call('ZCARD', FULL)
if full > 0 then
  local place = math.floor(now / 1000) % full
  local group = call('ZRANGE', FULL, place, place)[1]
  for _, share in ipairs(call('ZRANGEBYLEX', SHARES, '[' .. group .. '\0', '(' .. group .. '\1', 'LIMIT', 0, STEPS)) do
    if not call('ZSCORE', HELD, share:sub(#group + 2)) then call('ZREM', SHARES, share) end
  end
  touched[group] = true
  finish()
end

local head
local looks = 0
while true do
  local heads = call('ZRANGE', OPEN, 0, 1, 'WITHSCORES')
  head = heads[2]
  if number >= most or looks >= STEPS or not head or tonumber(head) > limit then break end
  local upto = math.min(tonumber(heads[4]) or limit, limit)
  local room = math.min(most - number, 1000)
  if bound > 0 then room = math.min(room, math.max(bound - count_of(heads[1]), 1)) end
  give(heads[1], upto, room)
  finish()
  looks = looks + 1
end

for _, key in ipairs(KEYS) do call('PEXPIRE', key, ttl) end
local is_more = #ended == STEPS or #due == STEPS
return { head or '', given, is_more and 1 or 0 }
