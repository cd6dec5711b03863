"""The Lua scripts of the event log; what holds for all scripts is in :mod:`~verl_agent_env.cluster.redis.scripts`."""

from __future__ import annotations

from verl_agent_env.cluster.redis.scripts import Script
from verl_agent_env.wire.task_results import MAX_TASKS_PER_RUN, OTHER_TASKS, RESULTS_MEMORY_S

_NUMBER_MEMORY_MS = 3_600_000
"""A writer that is silent for longer has its next steps compared with the journals."""

# why_unknown: why nothing is kept of an environment: it was closed, or the store lost it.
_KNOWN = """
local base = ARGV[2]
local function why_unknown(env)
  if redis.call('EXISTS', base .. 'd:' .. env) == 1 then return 'closed' end
  return 'gone'
end
-- An id begins with its slot, in three digits or in four.
local function slot_of(env) return string.sub(env, 1, string.byte(env, 4) == 45 and 3 or 4) end
local function episode_of(header) return tonumber(string.match(header, '^%d+')) end
local function journal(env, episode) return base .. 'j:' .. env .. ':' .. episode end
"""

# logs_with: names of the logs, but for those to skip, in which there are bundles with steps of these slots.
_LOGS_WITH = """
local function logs_with(slots, skipped)
  local found = {}
  if next(slots) == nil then return found end
  for _, name in ipairs(redis.call('SMEMBERS', base .. 'logs')) do
    if not string.find(skipped, name, 1, true) then
      for slot in pairs(slots) do
        if redis.call('SISMEMBER', base .. 'bs:' .. name, slot) == 1 then
          found[#found + 1] = name
          break
        end
      end
    end
  end
  return found
end
"""

# KEYS   gen, own, mapv
# ARGV   1 expected generation, 2 start of all keys, 3 how long an end is remembered (ms), 4 name of the caller's log, 5 the
#        number of its last call, 6 version of the map, 7 names of logs whose bundles are sorted out, 8 a bundle or '', 9 how
#        many bundles the log keeps, the last ones, 10 number n of tokens, 11 number k of slots in the bundle, then n tokens that
#        the caller holds, k slots, then the writes: kind (a letter), env, episode, seq, data. For 'p' follow a number and so many
#        entries, the last ones of seq steps; for 'x' as many entries as its data says. The first three digits of an env are its
#        slot.
# Return {'ok', number of this call or '', {env, episode, number of steps in its journal, …}, index of a refused write
#        (from 0), reason, …}, with the journals that have grown
#        | {'generation', the one found} | {'bundles', names of logs to sort out first, …}
#        | {'unbundled', 'map' or 'number' or 'owner' or 'full'}: the bundle is not taken, and nothing was written
#
# A full Redis accepts closings, which free memory, and refuses everything else as 'full'.
#
# A **bundle** is many steps in one value: JSON of env, episode, seq and length of the entry by turns, a line break, and the
# entries. Its steps are not compared with the journals: the caller knows that they follow, and a bundle is taken only if
# the caller's last call, and so each before it, had its effect. They are sorted into the journals (UNBUNDLE) when somebody
# has to read these, or when they have become many. Bundles of which the caller knows that all of their steps belong to what is
# over are removed from the beginning of its log.
#
# m:<env>             string: episode, line break, header
# j:<env>:<episode>   list: an empty element, so that the list is there, then one entry for each step: an empty one
#                     for each step before the state that the header holds, if that is not of the beginning
# s:<env>             string: episode, colon, seq, line break, snapshot
# d:<env>             string: why the environment was closed; expires
# f:<env>             string: the last episode whose result was counted
# r:<run>             hash: task to its tries, successes and sum of rewards; expires
# e:<slot>            set: environments of the slot
# b:<log>             list: bundles, oldest first
# bs:<log>            set: slots of the steps in them
# bn:<log>            string: number of the writer's last call; expires
# logs                set: names of the logs that have bundles
COMMIT = Script(
    "commit",
    _KNOWN
    + _LOGS_WITH
    + """
local found = redis.call('GET', KEYS[1]) or ''
if found ~= ARGV[1] then return {'generation', found} end
-- A command that may need memory, and here has no effect.
local probe = redis.pcall('RPUSHX', base .. 'none', '')
local is_full = type(probe) == 'table' and string.find(probe.err, 'OOM ', 1, true) ~= nil
if type(probe) == 'table' and not is_full then return probe end
local name, bundle = ARGV[4], ARGV[8]
local n, k = tonumber(ARGV[10]), tonumber(ARGV[11])
local first = 12 + n + k
local held, owned, slots = {}, {}, {}
for i = 12, 11 + n do held[ARGV[i]] = true end
for i = 12 + n, first - 1 do slots[#slots + 1] = ARGV[i] end

if bundle ~= '' then
  if is_full then return {'unbundled', 'full'} end
  if (redis.call('GET', KEYS[3]) or '') ~= ARGV[6] then return {'unbundled', 'map'} end
  local number = redis.call('GET', base .. 'bn:' .. name)
  if number ~= ARGV[5] then
    -- Steps alone that are there as the last ones are a repetition: the answer got lost.
    local is_last = number and tonumber(number) == tonumber(ARGV[5]) + 1 and first > #ARGV
    if is_last and redis.call('LINDEX', base .. 'b:' .. name, -1) == bundle then return {'ok', number, {}} end
    return {'unbundled', 'number'}
  end
  for _, token in ipairs(redis.call('HMGET', KEYS[2], unpack(slots))) do
    if not held[token] then return {'unbundled', 'owner'} end
  end
end

-- Place of the write that follows the one at this place.
local function after(at)
  local kind = ARGV[at]
  if kind == 'p' then return at + 6 + ARGV[at + 5] end
  if kind == 'x' then return at + 5 + ARGV[at + 4] end
  return at + 5
end
local reads = {a = true, x = true, p = true, c = true}
local read, at = {}, first
while at <= #ARGV do
  if reads[ARGV[at]] then read[slot_of(ARGV[at + 1])] = true end
  at = after(at)
end
local unsorted = logs_with(read, name .. ' ' .. ARGV[7])
if #unsorted > 0 then return {'bundles', unpack(unsorted)} end

local grown = {}
local function note(env, episode, steps)
  grown[#grown + 1] = env
  grown[#grown + 1] = tonumber(episode)
  grown[#grown + 1] = steps
end
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

local function append(env, episode, seq, data, at, is_part)
  local key = journal(env, episode)
  local length = redis.call('RPUSHX', key, data)
  if length == seq + 2 then
    if not is_part then note(env, episode, seq + 1) end
    return nil
  end
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
    local reason = append(env, episode, seq + i, ARGV[at + i], at, true)
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
    note(env, episode, 0)
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
  note(env, episode, 0)
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
  for i = at + 1, at + count, 4000 do
    redis.call('RPUSH', journal(env, episode), unpack(ARGV, i, math.min(at + count, i + 3999)))
  end
  redis.call('SADD', base .. 'e:' .. slot_of(env), env)
  note(env, episode, seq)
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
local answer = {'ok', '', grown}
local index = 0
at = first
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
  at = after(at)
  index = index + 1
end
if not is_full then
  if bundle ~= '' then
    redis.call('RPUSH', base .. 'b:' .. name, bundle)
    redis.call('LTRIM', base .. 'b:' .. name, '-' .. ARGV[9], -1)
    redis.call('SADD', base .. 'bs:' .. name, unpack(slots))
    redis.call('SADD', base .. 'logs', name)
  end
  answer[2] = string.format('%.0f', tonumber(redis.call('GET', base .. 'bn:' .. name) or '0') + 1)
  redis.call('SET', base .. 'bn:' .. name, answer[2], 'PX', NUMBER_MEMORY_MS)
end
return answer
""".replace("MAX_TASKS", str(MAX_TASKS_PER_RUN))
    .replace("OTHER_TASKS", OTHER_TASKS)
    .replace("RESULTS_MEMORY_MS", str(int(RESULTS_MEMORY_S * 1000)))
    .replace("NUMBER_MEMORY_MS", str(_NUMBER_MEMORY_MS)),
    waits_for_replicas=True,
)

# KEYS   the results of a run
# ARGV   1 cursor, 2 how many tasks about
# Return {next cursor, {task, 'tries successes sum of rewards', …}}
RESULTS = Script("results", "return redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])")

# KEYS   the results of a run
# ARGV   some of its tasks
# Return 'tries successes sum of rewards' or nil of each of them
RESULTS_OF = Script("results_of", "return redis.call('HMGET', KEYS[1], unpack(ARGV))")

# KEYS   gen, which only says where the data set is
# ARGV   1 bytes at which the answer is long enough, 2 start of all keys, 3 '1' for whole journals, 4 names of logs whose
#        bundles are sorted out, 5… environments
# Return {header or nil, entries, snapshot or nil, reason of its end or nil, number of the first entry} of each of the
#        first few environments: at least one. The entries are those from the step that led to the snapshot on.
#        | {'bundles', names of logs to sort out first, …}
LOAD = Script(
    "load",
    _KNOWN + _LOGS_WITH + """
local answer, size, enough = {}, 0, tonumber(ARGV[1])
local read = {}
for i = 5, #ARGV do
  if redis.call('EXISTS', base .. 'm:' .. ARGV[i]) == 1 then read[slot_of(ARGV[i])] = true end
end
local unsorted = logs_with(read, ARGV[4])
if #unsorted > 0 then return {'bundles', unpack(unsorted)} end
for i = 5, #ARGV do
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

# KEYS   mapv, names
# ARGV   1 lease prefix, 2 start of all keys
# Return {version of the map or '', 1 if all live workers sort out bundles before they read, names of the logs that have some}
READERS = Script(
    "readers",
    """
local all = 1
for _, inc in ipairs(redis.call('HVALS', KEYS[2])) do
  local reads = redis.call('HMGET', ARGV[1] .. inc, 'name', 'bundles')
  if reads[1] and not reads[2] then all = 0 end
end
return {redis.call('GET', KEYS[1]) or '', all, redis.call('SMEMBERS', ARGV[2] .. 'logs')}
""",
)

# KEYS   gen, which only says where the data set is
# ARGV   1 name of a log, 2 start of all keys, 3 steps and 4 bytes after which no further bundle is begun, 5 how many of the last
#        bundles stay
# Return {number of bundles that were sorted into the journals, number of those that are still to be}
#
# What is there already, and what belongs to an episode that is over or to an environment that was closed, is dropped. Steps
# of many bundles go to a journal in one command.
UNBUNDLE = Script(
    "unbundle",
    _KNOWN + """
local log = base .. 'b:' .. ARGV[1]
-- Allowed in a full Redis, and so is then what follows.
redis.call('DEL', base .. 'none')
local found = redis.call('LLEN', log)
local ends = found - ARGV[5]
local taken, count, size = 0, 0, 0
local journals, by_env = {}, {}
-- Where the episode is over there is no journal, and nothing follows on it.
local function journal_of(env, episode)
  local key = journal(env, episode)
  local known = {key = key, episode = episode, follows = redis.call('LLEN', key) - 1, n = 0}
  by_env[env] = known
  journals[#journals + 1] = known
  return known
end
while taken < ends and count < tonumber(ARGV[3]) and size < tonumber(ARGV[4]) do
  local bundle = redis.call('LINDEX', log, taken)
  local cut = string.find(bundle, '\\n', 1, true)
  local steps, from = cjson.decode(string.sub(bundle, 1, cut - 1)), cut + 1
  local number = #steps
  for i = 1, number, 4 do
    local env, episode, length = steps[i], steps[i + 1], steps[i + 3]
    local known = by_env[env]
    if not known or known.episode ~= episode then known = journal_of(env, episode) end
    if steps[i + 2] == known.follows then
      local n = known.n + 1
      known[n] = string.sub(bundle, from, from + length - 1)
      known.n, known.follows = n, known.follows + 1
    end
    from = from + length
  end
  taken, count, size = taken + 1, count + number / 4, size + #bundle
end
for _, known in ipairs(journals) do
  for i = 1, known.n, 4000 do redis.call('RPUSH', known.key, unpack(known, i, math.min(known.n, i + 3999))) end
end
if taken > 0 then redis.call('LTRIM', log, taken, -1) end
if taken == found then
  redis.call('DEL', base .. 'bs:' .. ARGV[1])
  redis.call('SREM', base .. 'logs', ARGV[1])
end
return {taken, ends - taken}
""",
)
