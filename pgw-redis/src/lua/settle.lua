-- Ends claims. ARGV: from 3 on, of each its member, its fence, what becomes of it, and with what: d done, r released for so long,
-- p postponed for so long, b buried for this reason. Returns for each whether it was still held.
local members = {}
for i = 3, #ARGV, 4 do members[#members + 1] = ARGV[i] end
local states = states_of(members)

-- Most are held and done: those are forgotten together.
local seen, done, shares = {}, {}, {}
local function forget()
  if #done > 0 then
    call('ZREM', HELD, unpack(done))
    call('HDEL', JOBS, unpack(done))
  end
  if #shares > 0 then call('ZREM', SHARES, unpack(shares)) end
  done, shares = {}, {}
end

local held = {}
for n, member in ipairs(members) do
  local fence_given, what, with, is_held = ARGV[n * 4], ARGV[n * 4 + 1], ARGV[n * 4 + 2], 0
  local state = states[n]
  if seen[member] then
    forget()
    state = call('HGET', JOBS, member)
  end
  seen[member] = true
  local is_theirs = state and sub(state, 18, 33) == fence_given
  if is_theirs and what == 'd' and sub(state, 1, 1) == 'h' and not state:find(':', 50, true) then
    is_held = 1
    done[#done + 1] = member
    local group = group_of(member)
    if bound > 0 then shares[#shares + 1] = group .. '\0' .. member end
    freed[group] = true
  elseif is_theirs then
    local kind, at, claims, _, fence, again = parse(state)
    if fence then
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
  end
  held[#held + 1] = is_held
end
forget()
finish()
return held
