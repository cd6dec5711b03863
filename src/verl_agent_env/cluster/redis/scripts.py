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

from verl_agent_env.cluster.store import MAX_CHANGED_SLOTS, MAX_CHANGES
from verl_agent_env.types import NUM_SLOTS


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
# num_slots_in: number of slots of the data set; that of earlier versions of this software, if one of them began it; '0' if nobody has.
# owned, changed: note in the list of news that slots have a new token ('' for none), or that a worker has come, gone or changed.
# bump: makes a new version of the map, keeps what is new in it, and publishes it. Microseconds of Redis' clock, or one more than the last
# version when that is ahead: so it differs from all earlier ones also after Redis was emptied or went back to an older copy. Lua's
# numbers and JSON's hold it exactly (below 2^53 until the year 2255). The stream of changes has an entry for each version, whose
# id is the version: 's' and 't' (slots, one behind the other, and their token) and 'w' (an incarnation). It begins anew where a
# version is missing in it, as after a change by earlier versions of this software, and with news of very many slots.
_BUMP = (
    """
local function allow_when_full(mapv) redis.call('DEL', mapv .. ':none') end
local function now_us()
  local t = redis.call('TIME')
  return t[1] * 1000000 + t[2]
end
local function num_slots_in(slots, mapv)
  return redis.call('GET', slots) or (redis.call('EXISTS', mapv) == 1 and 'NUM_SLOTS') or '0'
end
local function owned(news, slots, token)
  if #slots == 0 then return end
  news.slots = (news.slots or 0) + #slots
  for _, part in ipairs({'s', table.concat(slots), 't', token}) do news[#news + 1] = part end
end
local function changed(news, inc)
  news[#news + 1] = 'w'
  news[#news + 1] = inc
end
local function bump(mapv, changes, news)
  local last = redis.call('GET', mapv) or '0'
  local v = math.max(now_us(), tonumber(last) + 1)
  local text = string.format('%.0f', v)
  local newest = redis.call('XREVRANGE', changes, '+', '-', 'COUNT', 1)[1]
  local is_long = (news.slots or 0) > MAX_CHANGED_SLOTS
  if is_long or not newest or newest[1] ~= last .. '-0' then redis.call('DEL', changes) end
  if is_long or #news == 0 then news = {'v', ''} end
  redis.call('XADD', changes, 'MAXLEN', '~', MAX_CHANGES, text .. '-0', unpack(news))
  redis.call('SET', mapv, text)
  redis.call('PUBLISH', mapv, text)
  return text
end
""".replace("NUM_SLOTS", str(NUM_SLOTS))
    .replace("MAX_CHANGES", str(MAX_CHANGES))
    .replace("MAX_CHANGED_SLOTS", str(MAX_CHANGED_SLOTS))
)

# finish: ends an incarnation. Deletes its lease, frees its slots, and has it refused from now on.
_FINISH = """
local function finish(news, inc, own, names, expiries, lease_prefix, ended_prefix, ended_ms)
  local name = redis.call('HGET', lease_prefix .. inc, 'name')
  redis.call('SET', ended_prefix .. inc, '', 'PX', ended_ms)
  if redis.call('DEL', lease_prefix .. inc) == 1 then changed(news, inc) end
  if name and redis.call('HGET', names, name) == inc then
    redis.call('HDEL', names, name)
    redis.call('ZREM', expiries, name)
  end
  local entries, freed = redis.call('HGETALL', own), {}
  for i = 1, #entries, 2 do
    local colon = string.find(entries[i + 1], ':', 1, true)
    if string.sub(entries[i + 1], colon + 1) == inc then
      redis.call('HDEL', own, entries[i])
      freed[#freed + 1] = entries[i]
    end
  end
  owned(news, freed, '')
end
"""

# KEYS   gen, mapv, changes, own, names, expiries, lease of the caller, mark of the caller's end, number of slots
# ARGV   1 lease prefix, 2 ended prefix, 3 how long an end is remembered (ms), 4 new generation, 5 ttl (ms),
#        6 incarnation, 7 name, 8 supervisor, 9 shape, 10 address, 11 record (JSON), 12 number of the caller's slots
# Return {'ok', generation, version} | {'ended'} | {'taken', address of the worker that has the name} | {'slots', their number}
HEARTBEAT = Script(
    "heartbeat",
    _BUMP + _FINISH + """
local gen, mapv, changes, own, names, expiries, lease, ended, slots = unpack(KEYS)
local inc, name, supervisor, shape = ARGV[6], ARGV[7], ARGV[8], ARGV[9]
if redis.call('EXISTS', ended) == 1 then return {'ended'} end
local holder = redis.call('HGET', names, name)
local replaced = false
if holder and holder ~= inc then
  local seen = redis.call('HMGET', ARGV[1] .. holder, 'supervisor', 'address')
  if seen[1] and seen[1] ~= supervisor then return {'taken', seen[2]} end
  replaced = seen[1] and holder
end
local num_slots = num_slots_in(slots, mapv)
if num_slots ~= '0' and num_slots ~= ARGV[12] then return {'slots', num_slots} end

allow_when_full(mapv)
redis.call('SET', gen, ARGV[4], 'NX')
redis.call('SET', slots, ARGV[12], 'NX')
local news = {}
if replaced then finish(news, replaced, own, names, expiries, ARGV[1], ARGV[2], ARGV[3]) end
-- Its lease may be over without anybody having noticed.
if holder and holder ~= inc and not replaced then changed(news, holder) end
if redis.call('HGET', lease, 'shape') ~= shape then changed(news, inc) end
-- 'bundles': it sorts out bundles of steps before it reads a journal; earlier versions of this software do not.
redis.call('HSET', lease, 'record', ARGV[11], 'name', name, 'supervisor', supervisor, 'shape', shape,
  'address', ARGV[10], 'bundles', '1', 'ttl', ARGV[5])
redis.call('PEXPIRE', lease, ARGV[5])
redis.call('HSET', names, name, inc)
local now = math.floor(now_us() / 1000)
redis.call('ZADD', expiries, now + ARGV[5], name)
-- A lease that lasts longer than it was given for: Redis' clock went back. Its worker may have ended since.
for _, other in ipairs(redis.call('ZREVRANGEBYSCORE', expiries, '+inf', '(' .. now + ARGV[5], 'LIMIT', 0, 64)) do
  local other_lease = ARGV[1] .. (redis.call('HGET', names, other) or '')
  local ttl = tonumber(redis.call('HGET', other_lease, 'ttl') or '')
  -- Workers of earlier versions do not say for how long theirs was given: it stays as it is.
  if ttl then
    if redis.call('PTTL', other_lease) > ttl then redis.call('PEXPIRE', other_lease, ttl) end
    if tonumber(redis.call('ZSCORE', expiries, other)) > now + ttl then redis.call('ZADD', expiries, now + ttl, other) end
  end
end
-- An expired lease changes the map without a write: the next heartbeat of any worker notices it, a few at a time.
for _, other in ipairs(redis.call('ZRANGEBYSCORE', expiries, '-inf', now, 'LIMIT', 0, 64)) do
  local last = redis.call('HGET', names, other)
  if not last or redis.call('EXISTS', ARGV[1] .. last) == 0 then
    redis.call('HDEL', names, other)
    redis.call('ZREM', expiries, other)
    changed(news, last or '')
  end
end
local version
if #news > 0 then version = bump(mapv, changes, news) else version = redis.call('GET', mapv) or '0' end
return {'ok', redis.call('GET', gen), version}
""",
)

# KEYS   gen, mapv, changes, own, primary
# ARGV   1 run id of the server that the caller takes for the primary, 2 new generation
# Return 1 when another server was the primary before: then the data set is another one, and no slot has an owner
FOLLOW_PRIMARY = Script(
    "follow_primary",
    _BUMP + """
local gen, mapv, changes, own, primary = unpack(KEYS)
local known = redis.call('GET', primary)
if known == ARGV[1] then return 0 end
allow_when_full(mapv)
redis.call('SET', primary, ARGV[1])
local last = redis.call('GET', gen)
if not known or not last then return 0 end
-- The addresses of the event logs stay.
redis.call('SET', gen, ARGV[2] .. (string.match(last, ' .*$') or ''))
redis.call('DEL', own, changes)
bump(mapv, changes, {})
return 1
""",
)

# KEYS   mapv, changes, own, names, expiries
# ARGV   1 lease prefix, 2 ended prefix, 3 how long an end is remembered (ms), 4 incarnation
# Return 1 when the map changed, 0 when the incarnation had nothing left
LEAVE = Script(
    "leave",
    _BUMP + _FINISH + """
local mapv, changes, own, names, expiries = unpack(KEYS)
local news = {}
allow_when_full(mapv)
finish(news, ARGV[4], own, names, expiries, ARGV[1], ARGV[2], ARGV[3])
if #news == 0 then return 0 end
bump(mapv, changes, news)
return 1
""",
)

# KEYS   gen, mapv, changes, own, lease of the caller, mark of the caller's end
# ARGV   1 lease prefix, 2 expected generation or '', 3 incarnation, 4 new token, 5… slots
# Return {'ok', token or '' of each slot} | {'expired'} | {'ended'} | {'generation', the one found}
CLAIM = Script(
    "claim",
    _BUMP + """
local gen, mapv, changes, own, lease, ended = unpack(KEYS)
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
local news = {}
owned(news, writes, token)
if #news > 0 then bump(mapv, changes, news) end
return {'ok', granted}
""",
)

# KEYS   mapv, changes, own, then the lease of each receiver
# ARGV   of each receiver its new token, number n of slots, then n times slot and present token
# Return 1 or 0 for each slot, in order; 0 for all of a receiver that is not alive
HAND_OFF = Script(
    "hand_off",
    _BUMP + """
local mapv, changes, own = unpack(KEYS)
local moved, writes, news, at = {}, {}, {}, 1
for k = 4, #KEYS do
  local token, taken = ARGV[at], {}
  local last, is_alive = at + 2 * ARGV[at + 1], redis.call('EXISTS', KEYS[k]) == 1
  for i = at + 2, last, 2 do
    local present = is_alive and redis.call('HGET', own, ARGV[i])
    -- The new token is there already when an earlier run's answer was lost.
    if present and (present == ARGV[i + 1] or present == token) then
      moved[#moved + 1] = 1
      if present ~= token then
        taken[#taken + 1] = ARGV[i]
        writes[#writes + 1] = {ARGV[i], token}
      end
    else
      moved[#moved + 1] = 0
    end
  end
  owned(news, taken, token)
  at = last + 2
end

allow_when_full(mapv)
for _, write in ipairs(writes) do redis.call('HSET', own, write[1], write[2]) end
if #news > 0 then bump(mapv, changes, news) end
return moved
""",
)

# KEYS   mapv, changes
# ARGV   1 a version
# Return 1: the version of the map is higher now
ADVANCE = Script(
    "advance",
    _BUMP + """
local mapv, changes, version = KEYS[1], KEYS[2], tonumber(ARGV[1])
if tonumber(redis.call('GET', mapv) or '0') > version then return 1 end
allow_when_full(mapv)
redis.call('SET', mapv, string.format('%.0f', version))
bump(mapv, changes, {})
return 1
""",
)

# KEYS   mapv, changes, suspicions
# ARGV   1 how many are kept, 2 number n of keys to forget, then n keys, then key, how long it lasts (ms) and the
#        suspicion (JSON) by turns
# Return 1
SUSPECT = Script(
    "suspect",
    _BUMP + """
local mapv, changes, suspicions = unpack(KEYS)
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
bump(mapv, changes, {})
return 1
""",
)

# KEYS   gen, mapv, changes, own, names, expiries, suspicions, number of slots
# ARGV   1 lease prefix, 2 new generation, or '' to begin none, 3 and 4 generation and version of the map that the caller has ('' for none)
# Return {generation or nil, version or nil, 1 for what has changed since the caller's map or 0 for the whole, token ('' for none) and its
#        slots (digits one behind the other) by turns, the records (JSON) of live workers, incarnations that are not alive,
#        how long each suspicion still lasts (ms) and the suspicion (JSON) by turns, number of slots or '0'}
MAP = Script(
    "map",
    _BUMP + """
local gen, mapv, changes, own, names, expiries, suspicions, slots = unpack(KEYS)
if ARGV[2] ~= '' and redis.call('EXISTS', gen) == 0 then
  allow_when_full(mapv)
  redis.call('SET', gen, ARGV[2])
end
local generation, version = redis.call('GET', gen), redis.call('GET', mapv)
local now = math.floor(now_us() / 1000)
local suspected = {}
for _, kept in ipairs(redis.call('HVALS', suspicions)) do
  local until_ms, text = string.match(kept, '^(%d+)\\n(.*)$')
  if tonumber(until_ms) > now then
    suspected[#suspected + 1] = string.format('%.0f', until_ms - now)
    suspected[#suspected + 1] = text
  end
end

local owners, records, gone = {}, {}, {}
-- The caller's version is in the stream only if all later ones are.
local news = {}
if ARGV[3] == generation then news = redis.call('XRANGE', changes, ARGV[4] .. '-0', '+') end
if #news > 0 and news[1][1] == ARGV[4] .. '-0' and news[#news][1] == version .. '-0' then
  local seen = {}
  local function look(inc)
    if seen[inc] then return end
    seen[inc] = true
    local record = redis.call('HGET', ARGV[1] .. inc, 'record')
    if record then records[#records + 1] = record else gone[#gone + 1] = inc end
  end
  for i = 2, #news do
    local parts = news[i][2]
    for j = 1, #parts, 2 do
      if parts[j] == 'w' then
        look(parts[j + 1])
      elseif parts[j] == 's' then
        owners[#owners + 1] = parts[j + 3]
        owners[#owners + 1] = parts[j + 1]
      end
    end
  end
  -- Leases that are over, which no heartbeat has noticed yet.
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', expiries, '-inf', now)) do
    local inc = redis.call('HGET', names, name)
    if inc then look(inc) end
  end
  return {generation, version, 1, owners, records, gone, suspected, num_slots_in(slots, mapv)}
end

for _, inc in ipairs(redis.call('HVALS', names)) do
  local record = redis.call('HGET', ARGV[1] .. inc, 'record')
  if record then records[#records + 1] = record end
end
-- There are thousands of slots, and few tokens.
local entries, slots_of = redis.call('HGETALL', own), {}
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
return {generation, version, 0, owners, records, gone, suspected, num_slots_in(slots, mapv)}
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

# In each of several logs:
#
# KEYS   gen, own, versions of what is in own
# ARGV   1 expected generation, or '' to ask for it, 2 new generation, 3 a version of the map in which the caller owns the
#        slots, then by turns slot, token, and the version under which the caller installed it last, '' for a new token
# Return {'ok', generation, token or '' and version or '0' that each slot had before}
#        | {'generation', the one found}: nothing was installed
# What was installed under a later version of the map stays, and what somebody else has installed since the caller last did.
INSTALL = Script(
    "install",
    """
local gen, own, versions = unpack(KEYS)
-- Allowed in a full Redis, and so is then what follows.
redis.call('DEL', gen .. ':none')
redis.call('SET', gen, ARGV[2], 'NX')
local found = redis.call('GET', gen)
if ARGV[1] ~= '' and ARGV[1] ~= found then return {'generation', found} end
local version, answer = tonumber(ARGV[3]), {'ok', found}
for i = 4, #ARGV, 3 do
  local slot, token, since = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])
  local present = redis.call('HGET', own, slot) or ''
  local last = redis.call('HGET', versions, slot) or '0'
  answer[#answer + 1] = present
  answer[#answer + 1] = last
  local has_another = since and present ~= token and tonumber(last) > since
  if tonumber(last) <= version and not has_another then
    redis.call('HSET', own, slot, token)
    redis.call('HSET', versions, slot, ARGV[3])
  end
end
return answer
""",
)
