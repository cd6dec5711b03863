"""The Lua scripts of the event log; what holds for all scripts stands in :mod:`~verl_agent_env.cluster.redis.scripts`."""

from __future__ import annotations

from verl_agent_env.cluster.redis.scripts import Script
from verl_agent_env.wire.task_results import MAX_TASKS_PER_RUN, OTHER_TASKS, RESULTS_MEMORY_S

# why_unknown: why nothing is kept of an environment: it was closed, or the store lost it.
_KNOWN = """
local base = ARGV[2]
local function why_unknown(env)
  if redis.call('EXISTS', base .. 'd:' .. env) == 1 then return 'closed' end
  return 'gone'
end
local function episode_of(header) return tonumber(string.match(header, '^%d+')) end
local function journal(env, episode) return base .. 'j:' .. env .. ':' .. episode end
"""

# KEYS   gen, own
# ARGV   1 expected generation, 2 start of all keys, 3 how long an end is remembered (ms), 4 number of tokens n,
#        then n tokens that the caller holds, then the writes: kind (a letter), env, episode, seq, data. For 'p' follow a
#        number and so many entries, the last ones of seq steps; for 'x' as many entries as its data says. The first
#        three digits of an env are its slot.
# Return {'ok', index of a refused write (from 0), reason, …} | {'generation', the one found}
#
# A full Redis accepts closings, which free memory, and refuses everything else as 'full'.
#
# m:<env>             string: episode, line break, header
# j:<env>:<episode>   list: an empty element, so that the list is there, then one entry for each step: an empty one
#                     for each step before the state that the header holds, if that is not of the beginning
# s:<env>             string: episode, colon, seq, line break, snapshot
# d:<env>             string: why the environment was closed; expires
# f:<env>             string: the last episode whose result was counted
# r:<run>             hash: task to its tries, successes and sum of rewards; expires
# e:<slot>            set: environments of the slot
COMMIT = Script(
    "commit",
    _KNOWN
    + """
local found = redis.call('GET', KEYS[1]) or ''
if found ~= ARGV[1] then return {'generation', found} end
-- A command that may need memory, and here has no effect.
local probe = redis.pcall('RPUSHX', base .. 'none', '')
local is_full = type(probe) == 'table' and string.find(probe.err, 'OOM ', 1, true) ~= nil
if type(probe) == 'table' and not is_full then return probe end
local n = tonumber(ARGV[4])
local held, owned = {}, {}
for i = 5, 4 + n do held[ARGV[i]] = true end
local function slot_of(env) return string.sub(env, 1, 3) end
local function is_owned(slot)
  if owned[slot] == nil then owned[slot] = held[redis.call('HGET', KEYS[2], slot)] == true end
  return owned[slot]
end

-- True if two entries record the same step: of re-persisted steps only the last one has its operation id. An empty entry
-- stands for a step of which only the number is kept, and equals any entry.
local function is_same(one, other)
  if one == other or one == '' then return true end
  local operation, result = string.match(one, '^([^\\n]*)\\n(.*)$')
  local other_operation, other_result = string.match(other, '^([^\\n]*)\\n(.*)$')
  return result ~= nil and result == other_result and (operation == '' or other_operation == '')
end

local function append(env, episode, seq, data)
  local key = journal(env, episode)
  local length = redis.call('RPUSHX', key, data)
  if length == seq + 2 then return nil end
  if length == 0 then
    local header = redis.call('GET', base .. 'm:' .. env)
    if not header then return why_unknown(env) end
    if episode_of(header) > tonumber(episode) then return 'stale' end
    return 'short'
  end
  -- Not the next step: remove it again. No other command can have read it, because a script runs alone.
  redis.call('RPOP', key)
  if length < seq + 2 then return 'short' end
  if not is_same(redis.call('LINDEX', key, seq + 1), data) then return 'conflict' end
end

local function extend(env, episode, seq, count, at)
  -- Existing entries come first: nothing is appended before all of them have been compared.
  for i = 0, count - 1 do
    local reason = append(env, episode, seq + i, ARGV[at + i])
    if reason then return reason end
  end
end

local function saved_at(env)
  return string.match(redis.call('GETRANGE', base .. 's:' .. env, 0, 40), '^(%d+):(%d+)\\n')
end

local function save(env, episode, seq, data)
  local header = redis.call('GET', base .. 'm:' .. env)
  if not header then return why_unknown(env) end
  local present = episode_of(header)
  if present > tonumber(episode) then return 'stale' end
  if present < tonumber(episode) then return 'short' end
  local last_episode, last_seq = saved_at(env)
  -- A late copy of an earlier save changes nothing.
  if last_episode == episode and tonumber(last_seq) > seq then return nil end
  redis.call('SET', base .. 's:' .. env, episode .. ':' .. seq .. '\\n' .. data)
end

local function create(env, episode, seq, data)
  if redis.call('EXISTS', base .. 'd:' .. env) == 1 then return 'closed' end
  if redis.call('SET', base .. 'm:' .. env, episode .. '\\n' .. data, 'NX') then
    redis.call('RPUSH', journal(env, episode), '')
    redis.call('SADD', base .. 'e:' .. slot_of(env), env)
  end
end

local function begin(env, episode, seq, data)
  local header = redis.call('GET', base .. 'm:' .. env)
  if not header then return why_unknown(env) end
  local present, wanted = episode_of(header), tonumber(episode)
  if present == wanted then
    if header == episode .. '\\n' .. data then return nil end
    return 'conflict'
  end
  if present > wanted then return 'stale' end
  if present < wanted - 1 then return 'short' end
  redis.call('DEL', journal(env, present), base .. 's:' .. env)
  redis.call('SET', base .. 'm:' .. env, episode .. '\\n' .. data)
  redis.call('RPUSH', journal(env, episode), '')
end

local function close(env, episode, seq, data)
  local header = redis.call('GET', base .. 'm:' .. env)
  -- First, and even if there is nothing: in a full Redis a script has to begin with a deletion.
  redis.call('DEL', base .. 'm:' .. env, base .. 's:' .. env, base .. 'f:' .. env)
  if header then
    redis.call('DEL', journal(env, episode_of(header)))
    redis.call('SREM', base .. 'e:' .. slot_of(env), env)
  end
  redis.call('SET', base .. 'd:' .. env, data, 'PX', ARGV[3])
end

-- One empty entry for each step of which only the number is kept; a few at a time, because Lua's stack is limited.
local function pad(key, number)
  local blanks = {}
  for i = 1, math.min(number, 4000) do blanks[i] = '' end
  while number > 0 do
    redis.call('RPUSH', key, unpack(blanks, 1, math.min(number, 4000)))
    number = number - 4000
  end
end

local function put(env, episode, seq, data, at)
  if redis.call('EXISTS', base .. 'd:' .. env) == 1 then return 'closed' end
  local count = tonumber(ARGV[at])
  local header = redis.call('GET', base .. 'm:' .. env)
  if header then
    local present, steps = episode_of(header), redis.call('LLEN', journal(env, episode)) - 1
    if present > tonumber(episode) then return 'stale' end
    if present == tonumber(episode) and (steps > seq or (steps == seq and count == seq)) then
      -- A late copy removes no later steps.
      if count == 0 then return nil end
      local last = redis.call('LINDEX', journal(env, episode), seq)
      if is_same(last, ARGV[at + count]) then return nil end
      return 'conflict'
    end
    redis.call('DEL', journal(env, present))
    -- A snapshot of a later step than the header's own state is kept.
    local saved_episode, saved_seq = saved_at(env)
    if count == seq or saved_episode ~= episode or tonumber(saved_seq) < seq - count then
      redis.call('DEL', base .. 's:' .. env)
    end
  end
  redis.call('SET', base .. 'm:' .. env, episode .. '\\n' .. data)
  redis.call('RPUSH', journal(env, episode), '')
  pad(journal(env, episode), seq - count)
  for i = at + 1, at + count do redis.call('RPUSH', journal(env, episode), ARGV[i]) end
  redis.call('SADD', base .. 'e:' .. slot_of(env), env)
end

-- Counts the result of an episode once: "run success reward task".
local function result(env, episode, seq, data)
  if redis.call('EXISTS', base .. 'm:' .. env) == 0 then return why_unknown(env) end
  local counted = redis.call('GET', base .. 'f:' .. env)
  if counted and tonumber(counted) >= tonumber(episode) then return nil end
  local run, success, reward, task = string.match(data, '^(%S+) (%S+) (%S+) (.*)$')
  local key = base .. 'r:' .. run
  local known = redis.call('HGET', key, task)
  if not known and redis.call('HLEN', key) >= MAX_TASKS then
    task = 'OTHER_TASKS'
    known = redis.call('HGET', key, task)
  end
  local tries, successes, total = string.match(known or '0 0 0', '^(%S+) (%S+) (%S+)$')
  redis.call('SET', base .. 'f:' .. env, episode)
  redis.call('HSET', key, task,
    string.format('%d %d %.17g', tries + 1, successes + success, tonumber(total) + tonumber(reward)))
  redis.call('PEXPIRE', key, RESULTS_MEMORY_MS)
end

local kinds = {a = append, x = extend, s = save, c = create, b = begin, d = close, p = put, r = result}
local answer = {'ok'}
local at, index = 5 + n, 0
while at <= #ARGV do
  local kind, env, seq = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 3])
  local reason = 'moved'
  if is_owned(slot_of(env)) then
    if is_full and kind ~= 'd' then
      reason = 'full'
    else
      reason = kinds[kind](env, ARGV[at + 2], seq, ARGV[at + 4], at + 5)
    end
  end
  if reason then
    answer[#answer + 1] = index
    answer[#answer + 1] = reason
  end
  at = at + 5
  if kind == 'p' then at = at + 1 + ARGV[at] elseif kind == 'x' then at = at + ARGV[at - 1] end
  index = index + 1
end
return answer
""".replace("MAX_TASKS", str(MAX_TASKS_PER_RUN))
    .replace("OTHER_TASKS", OTHER_TASKS)
    .replace("RESULTS_MEMORY_MS", str(int(RESULTS_MEMORY_S * 1000))),
    waits_for_replicas=True,
)

# KEYS   the results of a run
# ARGV   1 cursor, 2 how many tasks about
# Return {next cursor, {task, 'tries successes sum of rewards', …}}
RESULTS = Script("results", "return redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])")

# KEYS   gen, which only says where the data set is
# ARGV   1 bytes at which the answer is long enough, 2 start of all keys, 3 '1' for whole journals, 4… environments
# Return {header or nil, entries, snapshot or nil, reason of its end or nil, number of the first entry} of each of the
#        first few environments: at least one. The entries are those from the step that led to the snapshot on.
LOAD = Script(
    "load",
    _KNOWN + """
local answer, size, enough = {}, 0, tonumber(ARGV[1])
for i = 4, #ARGV do
  local env = ARGV[i]
  local header = redis.call('GET', base .. 'm:' .. env)
  if header then
    local key, snapshot, first = journal(env, episode_of(header)), redis.call('GET', base .. 's:' .. env), 0
    if snapshot and ARGV[3] ~= '1' then
      local seq = tonumber(string.match(snapshot, '^%d+:(%d+)\\n'))
      if seq < redis.call('LLEN', key) then first = math.max(seq - 1, 0) end
    end
    local entries = redis.call('LRANGE', key, first + 1, -1)
    answer[#answer + 1] = {header, entries, snapshot, false, first}
    size = size + #header + (snapshot and #snapshot or 0)
    for _, entry in ipairs(entries) do size = size + #entry end
    if size >= enough then break end
  else
    answer[#answer + 1] = {false, {}, false, redis.call('GET', base .. 'd:' .. env), 0}
  end
end
return answer
""",
)

# KEYS   the sets of environments of some slots
# Return the ids in all of them
MEMBERS = Script(
    "members",
    """
local answer = {}
for _, key in ipairs(KEYS) do
  for _, env in ipairs(redis.call('SMEMBERS', key)) do answer[#answer + 1] = env end
end
return answer
""",
)
