"""The Lua scripts: every change of membership or ownership is one script, and so is atomic.

Lua has no rollback, so each script validates all its input before its first write. Each gives the same result when it
runs again after a lost answer. Random ids come from the caller, because Redis seeds Lua's generator alike in every run.
Times are by Redis' clock, and a worker is alive as long as its lease key exists.

A full Redis (``maxmemory`` with ``noeviction``) refuses the first command of a script that may need memory, but no command
after a first write that was allowed. Scripts that a cluster cannot work without need a few bytes per worker and slot; they
begin by deleting a key that does not exist, which is always allowed, in all versions since 2.6. The flag ``allow-oom``
exists only since Redis 7, and would allow all scripts.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, field

from verl_agent_env.wire.task_results import MAX_TASKS_PER_RUN, OTHER_TASKS, RESULTS_MEMORY_S


@dataclass(frozen=True)
class Script:
    """Lua text and its id in Redis."""

    name: str
    text: str = field(repr=False)
    waits_for_replicas: bool = False
    """Whether it counts only when as many replicas have what it wrote as the URL demands."""

    @functools.cached_property
    def sha(self) -> str:
        """Argument of ``EVALSHA``."""
        return hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


# allow_when_full: allows the following writes in a full Redis.
# bump: makes a new version of the map and publishes it. Microseconds of Redis' clock, or one more than the last version when that
# is ahead: so it differs from all earlier ones also after Redis was emptied or went back to an older copy. Lua's
# numbers and JSON's hold it exactly (below 2^53 until the year 2255).
_BUMP = """
local function allow_when_full(mapv) redis.call('DEL', mapv .. ':none') end
local function now_us()
  local t = redis.call('TIME')
  return t[1] * 1000000 + t[2]
end
local function bump(mapv)
  local v = math.max(now_us(), tonumber(redis.call('GET', mapv) or '0') + 1)
  local text = string.format('%.0f', v)
  redis.call('SET', mapv, text)
  redis.call('PUBLISH', mapv, text)
  return text
end
"""

# finish: ends an incarnation. Deletes its lease, frees its slots, and has it refused from now on.
_FINISH = """
local function finish(inc, own, names, expiries, lease_prefix, ended_prefix, ended_ms)
  local changed = false
  local name = redis.call('HGET', lease_prefix .. inc, 'name')
  redis.call('SET', ended_prefix .. inc, '', 'PX', ended_ms)
  if redis.call('DEL', lease_prefix .. inc) == 1 then changed = true end
  if name and redis.call('HGET', names, name) == inc then
    redis.call('HDEL', names, name)
    redis.call('ZREM', expiries, name)
  end
  local entries = redis.call('HGETALL', own)
  for i = 1, #entries, 2 do
    local colon = string.find(entries[i + 1], ':', 1, true)
    if string.sub(entries[i + 1], colon + 1) == inc then
      redis.call('HDEL', own, entries[i])
      changed = true
    end
  end
  return changed
end
"""

# KEYS   gen, mapv, own, names, expiries, lease of the caller, mark of the caller's end
# ARGV   1 lease prefix, 2 ended prefix, 3 how long an end is remembered (ms), 4 new generation, 5 ttl (ms),
#        6 incarnation, 7 name, 8 supervisor, 9 shape, 10 address, 11 record (JSON)
# Return {'ok', generation, version} | {'ended'} | {'taken', address of the worker that has the name}
HEARTBEAT = Script(
    "heartbeat",
    _BUMP + _FINISH + """
local gen, mapv, own, names, expiries, lease, ended = unpack(KEYS)
local inc, name, supervisor, shape = ARGV[6], ARGV[7], ARGV[8], ARGV[9]
if redis.call('EXISTS', ended) == 1 then return {'ended'} end
local holder = redis.call('HGET', names, name)
local replaced = false
if holder and holder ~= inc then
  local seen = redis.call('HMGET', ARGV[1] .. holder, 'supervisor', 'address')
  if seen[1] and seen[1] ~= supervisor then return {'taken', seen[2]} end
  replaced = seen[1] and holder
end

allow_when_full(mapv)
redis.call('SET', gen, ARGV[4], 'NX')
local changed = false
if replaced then changed = finish(replaced, own, names, expiries, ARGV[1], ARGV[2], ARGV[3]) end
if redis.call('HGET', lease, 'shape') ~= shape then changed = true end
redis.call('HSET', lease, 'record', ARGV[11], 'name', name, 'supervisor', supervisor, 'shape', shape,
  'address', ARGV[10])
redis.call('PEXPIRE', lease, ARGV[5])
redis.call('HSET', names, name, inc)
local now = math.floor(now_us() / 1000)
redis.call('ZADD', expiries, now + ARGV[5], name)
-- An expired lease changes the map without a write: the next heartbeat of any worker notices it, a few at a time.
for _, other in ipairs(redis.call('ZRANGEBYSCORE', expiries, '-inf', now, 'LIMIT', 0, 64)) do
  local last = redis.call('HGET', names, other)
  if not last or redis.call('EXISTS', ARGV[1] .. last) == 0 then
    redis.call('HDEL', names, other)
    redis.call('ZREM', expiries, other)
    changed = true
  end
end
local version
if changed then version = bump(mapv) else version = redis.call('GET', mapv) or '0' end
return {'ok', redis.call('GET', gen), version}
""",
)

# KEYS   gen, mapv, own, primary
# ARGV   1 run id of the server that the caller takes for the primary, 2 new generation
# Return 1 when another server was the primary before: then the data set is another one, and no slot has an owner
FOLLOW_PRIMARY = Script(
    "follow_primary",
    _BUMP + """
local gen, mapv, own, primary = unpack(KEYS)
local known = redis.call('GET', primary)
if known == ARGV[1] then return 0 end
allow_when_full(mapv)
redis.call('SET', primary, ARGV[1])
if not known or redis.call('EXISTS', gen) == 0 then return 0 end
redis.call('SET', gen, ARGV[2])
redis.call('DEL', own)
bump(mapv)
return 1
""",
)

# KEYS   mapv, own, names, expiries
# ARGV   1 lease prefix, 2 ended prefix, 3 how long an end is remembered (ms), 4 incarnation
# Return 1 when the map changed, 0 when the incarnation had nothing left
LEAVE = Script(
    "leave",
    _BUMP + _FINISH + """
allow_when_full(KEYS[1])
if finish(ARGV[4], KEYS[2], KEYS[3], KEYS[4], ARGV[1], ARGV[2], ARGV[3]) then
  bump(KEYS[1])
  return 1
end
return 0
""",
)

# KEYS   gen, mapv, own, lease of the caller, mark of the caller's end
# ARGV   1 lease prefix, 2 expected generation or '', 3 incarnation, 4 new token, 5… slots
# Return {'ok', token or '' of each slot} | {'expired'} | {'ended'} | {'generation', the one found}
CLAIM = Script(
    "claim",
    _BUMP + """
local gen, mapv, own, lease, ended = unpack(KEYS)
local inc, token = ARGV[3], ARGV[4]
local found = redis.call('GET', gen) or ''
if ARGV[2] ~= '' and ARGV[2] ~= found then return {'generation', found} end
if redis.call('EXISTS', lease) == 0 then
  if redis.call('EXISTS', ended) == 1 then return {'ended'} end
  return {'expired'}
end
local alive, granted, writes = {}, {}, {}
for i = 5, #ARGV do
  local present = redis.call('HGET', own, ARGV[i])
  local grant = token
  if present then
    local holder = string.sub(present, string.find(present, ':', 1, true) + 1)
    if holder == inc then
      grant = present
    else
      if alive[holder] == nil then alive[holder] = redis.call('EXISTS', ARGV[1] .. holder) == 1 end
      if alive[holder] then grant = '' end
    end
  end
  if grant == token and present ~= token then writes[#writes + 1] = ARGV[i] end
  granted[#granted + 1] = grant
end

allow_when_full(mapv)
for _, slot in ipairs(writes) do redis.call('HSET', own, slot, token) end
if #writes > 0 then bump(mapv) end
return {'ok', granted}
""",
)

# KEYS   mapv, own, lease of the receiver, mark of the receiver's end
# ARGV   1 new token, then slot and present token by turns
# Return {'ok', 1 or 0 for each slot} | {'expired'} | {'ended'}
HAND_OFF = Script(
    "hand_off",
    _BUMP + """
local mapv, own, lease, ended = unpack(KEYS)
if redis.call('EXISTS', lease) == 0 then
  if redis.call('EXISTS', ended) == 1 then return {'ended'} end
  return {'expired'}
end
local moved, writes = {}, {}
for i = 2, #ARGV, 2 do
  local present = redis.call('HGET', own, ARGV[i])
  -- The new token is there already when an earlier run's answer was lost.
  if present == ARGV[i + 1] or present == ARGV[1] then
    moved[#moved + 1] = 1
    if present ~= ARGV[1] then writes[#writes + 1] = ARGV[i] end
  else
    moved[#moved + 1] = 0
  end
end

allow_when_full(mapv)
for _, slot in ipairs(writes) do redis.call('HSET', own, slot, ARGV[1]) end
if #writes > 0 then bump(mapv) end
return {'ok', moved}
""",
)

# KEYS   mapv, suspicions
# ARGV   1 how many are kept, 2 number n of keys to forget, then n keys, then key, how long it lasts (ms) and the
#        suspicion (JSON) by turns
# Return 1
SUSPECT = Script(
    "suspect",
    _BUMP + """
local mapv, suspicions = unpack(KEYS)
local first = 3 + ARGV[2]
allow_when_full(mapv)
local now = math.floor(now_us() / 1000)
for i = 3, first - 1 do redis.call('HDEL', suspicions, ARGV[i]) end
for i = first, #ARGV, 3 do
  redis.call('HSET', suspicions, ARGV[i], string.format('%.0f', now + ARGV[i + 1]) .. '\\n' .. ARGV[i + 2])
end
local entries, kept, longest = redis.call('HGETALL', suspicions), {}, now
for i = 1, #entries, 2 do
  local until_ms = tonumber(string.match(entries[i + 1], '^%d+'))
  if until_ms <= now then
    redis.call('HDEL', suspicions, entries[i])
  else
    kept[#kept + 1] = {until_ms, entries[i]}
    longest = math.max(longest, until_ms)
  end
end
table.sort(kept, function(a, b) return a[1] > b[1] end)
for i = ARGV[1] + 1, #kept do redis.call('HDEL', suspicions, kept[i][2]) end
redis.call('PEXPIREAT', suspicions, string.format('%.0f', longest))
bump(mapv)
return 1
""",
)

# KEYS   gen, mapv, own, names, suspicions
# ARGV   1 lease prefix, 2 new generation
# Return {generation, version or nil, token and its slots (three digits each) by turns, the records (JSON) of all live workers, how long each
#        suspicion still lasts (ms) and the suspicion (JSON) by turns}
MAP = Script(
    "map",
    _BUMP + """
local gen, mapv, own, names, suspicions = unpack(KEYS)
if redis.call('EXISTS', gen) == 0 then
  allow_when_full(mapv)
  redis.call('SET', gen, ARGV[2])
end
local records = {}
for _, inc in ipairs(redis.call('HVALS', names)) do
  local record = redis.call('HGET', ARGV[1] .. inc, 'record')
  if record then records[#records + 1] = record end
end
local suspected, now = {}, math.floor(now_us() / 1000)
for _, kept in ipairs(redis.call('HVALS', suspicions)) do
  local until_ms, text = string.match(kept, '^(%d+)\\n(.*)$')
  if tonumber(until_ms) > now then
    suspected[#suspected + 1] = string.format('%.0f', until_ms - now)
    suspected[#suspected + 1] = text
  end
end
-- There are thousands of slots, and few tokens.
local entries, slots_of, owners = redis.call('HGETALL', own), {}, {}
for i = 1, #entries, 2 do
  local slots = slots_of[entries[i + 1]]
  if not slots then
    slots = {}
    slots_of[entries[i + 1]] = slots
  end
  slots[#slots + 1] = entries[i]
end
for token, slots in pairs(slots_of) do
  owners[#owners + 1] = token
  owners[#owners + 1] = table.concat(slots)
end
return {redis.call('GET', gen), redis.call('GET', mapv), owners, records, suspected}
""",
)

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

# KEYS   the record of an idempotency key
# ARGV   1 the record to keep if there is none, 2 how long (ms)
# Return the record that is kept
CLAIM_KEY = Script(
    "claim_key",
    """
local kept = redis.call('GET', KEYS[1])
if kept then return kept end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ARGV[1]
""",
)

# KEYS   1 rows of kept episodes, 2 their counts
# ARGV   1 prefix of the episodes' keys, 2 bytes that all may take, then of each episode its id, its row and itself
# Return the number of episodes that were not there yet
# The oldest are deleted for new ones; each row takes its place in the list, whose first one has the number `first`.
KEEP_EPISODES = Script(
    "keep_episodes",
    """
local rows, counts, prefix, most = KEYS[1], KEYS[2], ARGV[1], tonumber(ARGV[2])
local size = tonumber(redis.call('HGET', counts, 'bytes') or '0')
local first = tonumber(redis.call('HGET', counts, 'first') or '0')
local new = 0
for i = 3, #ARGV, 3 do
  local key = prefix .. ARGV[i]
  if redis.call('EXISTS', key) == 0 then
    redis.call('SET', key, ARGV[i + 2])
    redis.call('RPUSH', rows, ARGV[i + 1])
    size = size + #ARGV[i + 2]
    new = new + 1
  end
end
while size > most do
  local row = redis.call('LPOP', rows)
  if not row then break end
  local key = prefix .. cjson.decode(row)[1]
  size = size - redis.call('STRLEN', key)
  redis.call('DEL', key)
  first = first + 1
end
local time = redis.call('TIME')
redis.call('HSETNX', counts, 'origin', time[1] .. '.' .. time[2])
redis.call('HSET', counts, 'bytes', size, 'first', first)
return new
""",
)

# KEYS   1 rows of kept episodes, 2 their counts
# ARGV   1 the origin that the reader knows, 2 number of the first row that it does not know, 3 how many rows to read
# Return the origin, the number of the first row that there is, and the rows
READ_EPISODE_ROWS = Script(
    "read_episode_rows",
    """
local origin = redis.call('HGET', KEYS[2], 'origin') or ''
local first = tonumber(redis.call('HGET', KEYS[2], 'first') or '0')
local from = 0
if origin == ARGV[1] then from = math.max(0, tonumber(ARGV[2]) - first) end
return {origin, first, redis.call('LRANGE', KEYS[1], from, from + tonumber(ARGV[3]) - 1)}
""",
)

# KEYS   some episodes
# Return what each of them is
READ_EPISODES = Script(
    "read_episodes",
    """
local answer = {}
for index, key in ipairs(KEYS) do answer[index] = redis.call('GET', key) end
return answer
""",
)
