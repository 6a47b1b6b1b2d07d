-- What every script of the queue begins with: its keys, the time, and the moves that they are made of.
--
-- jobs     hash, member -> state: what is known of a job, in one letter and what follows it
--            l due later · w waiting   due (16 digits) since (16) claims
--            h held · x lost, lease over, not claimed anew   until (16) fence (16) since (16) claims [:due again (16)]
--            b buried
--          since: when it was put there, or claimed; 0 when it was postponed. What is none of these is as good as lost.
-- later    sorted set, member by due time: not due when it was last looked at
-- waiting  sorted set in the order of its bytes, group NUL due (16) member: due, those of a group together
-- open     sorted set, group by the due time of its first that waits: groups with room
-- full     the same of groups without
-- held     sorted set, member by the end of its lease
-- shares   sorted set in the order of its bytes, group NUL member: those of groups with a bound that are held
-- dead     hash, member -> why it was buried
--
-- A member is a mode, two ids of 16 bytes and a merchant; its group is all of that but the first id, where groups have a bound. Times are in µs.
-- Keys may be evicted one by one: what a script does not find it takes as lost, and a push puts in order what it meets.
local JOBS, LATER, WAITING, OPEN, FULL, HELD, SHARES, DEAD =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local call, sub, format = redis.call, string.sub, string.format
local t = call('TIME')
-- ARGV[1]: by how much a test moved the clock. ARGV[2]: most held of a group, 0 for no bound.
local now = tonumber(t[1]) * 1000000 + tonumber(t[2]) + tonumber(ARGV[1])
local bound = tonumber(ARGV[2])
-- Groups that are to be written down anew, and those that were only added to, or only given room.
local touched, added, freed = {}, {}, {}

local function stamp(at) return format('%016.0f', at) end
local stamped_now = stamp(now)

local function group_of(member)
  if bound == 0 then return '' end
  return sub(member, 1, 1) .. sub(member, 18)
end

-- How many of a group are held.
local function count_of(group)
  return call('ZLEXCOUNT', SHARES, '[' .. group .. '\0', '(' .. group .. '\1')
end

local function take_share(member)
  local group = group_of(member)
  if bound > 0 then call('ZADD', SHARES, 0, group .. '\0' .. member) end
  touched[group] = true
end

local function free_share(member)
  local group = group_of(member)
  if bound > 0 then call('ZREM', SHARES, group .. '\0' .. member) end
  touched[group] = true
end

local function wait(member, due)
  local group = group_of(member)
  call('ZADD', WAITING, 0, group .. '\0' .. stamp(due) .. member)
  touched[group] = true
end

local function unwait(member, due)
  local group = group_of(member)
  call('ZREM', WAITING, group .. '\0' .. stamp(due) .. member)
  touched[group] = true
end

-- Puts a job where it waits for its due time.
local function put(member, due, claims, since)
  local rest = stamp(due) .. stamp(since or now) .. format('%.0f', claims)
  if due > now then
    call('HSET', JOBS, member, 'l' .. rest)
    call('ZADD', LATER, due, member)
  else
    call('HSET', JOBS, member, 'w' .. rest)
    wait(member, due)
  end
end

-- The parts of a state: kind, time, claims, since, fence, due again.
local function parse(state)
  local kind, at = sub(state, 1, 1), tonumber(sub(state, 2, 17))
  if kind == 'b' then return kind end
  if at and (kind == 'l' or kind == 'w') then
    local since, claims = tonumber(sub(state, 18, 33)), tonumber(sub(state, 34))
    if since and claims then return kind, at, claims, since end
  elseif at and (kind == 'h' or kind == 'x') then
    local since = tonumber(sub(state, 34, 49))
    local claims, again = sub(state, 50):match('^(%d+):?(%d*)$')
    if since and claims then
      return kind, at, tonumber(claims), since, sub(state, 18, 33), tonumber(again)
    end
  end
end

-- What is known of a job.
local function read(member)
  local state = call('HGET', JOBS, member)
  if state then return parse(state) end
end

-- The states of several, in their order; false where nothing is known.
local function states_of(members)
  if #members == 0 then return {} end
  return call('HMGET', JOBS, unpack(members))
end

local function hold(member, kind, till, fence, since, claims, again)
  local tail = again and (':' .. stamp(again)) or ''
  local rest = stamp(since) .. format('%.0f', claims) .. tail
  call('HSET', JOBS, member, kind .. stamp(till) .. fence .. rest)
end

-- Whether an endpoint has so many waiting that the rest is left in the rows, so that it does not take all the room there is; it cannot where there
-- are fewer jobs in all. Counted once a call.
local CROWD = 10000
local crowds = {}
local function is_crowded(member, size)
  if bound == 0 or size < CROWD then return false end
  local group = group_of(member)
  crowds[group] = crowds[group] or call('ZLEXCOUNT', WAITING, '[' .. group .. '\0', '(' .. group .. '\1')
  return crowds[group] >= CROWD
end

-- One more of a group waits.
local function count_in(group)
  if crowds[group] then crowds[group] = crowds[group] + 1 end
end

-- Puts a held job right that nobody would see end, and one that is lost already.
local function mend(member, kind, at, fence, since, claims, again)
  if kind == 'x' then
    hold(member, kind, at, fence, since, claims, again)
    wait(member, at)
  elseif call('ZSCORE', HELD, member) then
    hold(member, kind, at, fence, since, claims, again)
  else
    hold(member, 'x', now, fence, since, claims, again)
    free_share(member)
    wait(member, now)
  end
end

local function earlier(one, other)
  if one and other then return math.min(one, other) end
  return one or other
end

-- Writes down where each touched group stands.
local function finish()
  for group in pairs(added) do
    -- What comes last changes nothing for a group with room whose first has been due.
    local first = not touched[group] and tonumber(call('ZSCORE', OPEN, group) or nil)
    if not first or first > now then touched[group] = true end
  end
  for group in pairs(freed) do
    -- Nor does room for one that had some.
    if not touched[group] and call('ZREM', FULL, group) == 1 then touched[group] = true end
  end
  for group in pairs(touched) do
    local room = bound == 0 or count_of(group) < bound
    local first = call('ZRANGEBYLEX', WAITING, '[' .. group .. '\0', '(' .. group .. '\1', 'LIMIT', 0, 1)[1]
    local into, out_of = OPEN, FULL
    if not room then into, out_of = FULL, OPEN end
    call('ZREM', out_of, group)
    if first then
      call('ZADD', into, sub(first, #group + 2, #group + 17), group)
    else
      call('ZREM', into, group)
    end
  end
  touched, added, freed = {}, {}, {}
end
