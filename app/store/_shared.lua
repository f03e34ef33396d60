-- What every script begins with. ARGV[1] is always the clock's shift in ms: 0 outside tests.

local function now_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2] + ARGV[1] * 1000
end

local now_ms = math.floor(now_us() / 1000)

-- Uses an assertion up until `used_until_ms`, when it expires anyway; 0: there is none. First the device's record must be
-- the one under which the caller was verified. The same request may use it again: a command that is sent twice is not a
-- replay. Returns nothing, or why not: 'stale', 'expired' or 'used'. Expiry is judged here as well as by the instance,
-- whose clock may have stood still while its machine slept.
local function use_assertion(device, epoch, assertion, request, used_until_ms)
  if redis.call('HGET', device, 'epoch') ~= epoch then
    return 'stale'
  end
  used_until_ms = tonumber(used_until_ms)
  if used_until_ms == 0 then
    return nil
  end
  if used_until_ms <= now_ms then
    return 'expired'
  end
  local user = redis.call('SET', assertion, request, 'NX', 'GET', 'PX', math.ceil(used_until_ms - now_ms))
  if user and user ~= request then
    return 'used'
  end
  return nil
end

-- Every key of a shard begins with its hash tag; what a script is not given by name it builds from that. Those of the
-- operators and of the jobs have tags of their own.
local shard = string.match(KEYS[1], '^{%w+}:')

local HOUR_MS = 3600 * 1000
local MONTH_MS = 31 * 24 * HOUR_MS -- longer than any token lives (guide chapter 10.1)

-- Whose revokes go first.
local OPERATOR, BULK, DEVICE = 0, 1, 2
local SPAN = 2 ^ 42 -- above any expiry in ms, so the score below is exact in a double

-- The queue's order: by priority, then the longest remaining life first.
local function turn(priority, expires_at_ms)
  return priority * SPAN + SPAN - expires_at_ms
end

-- Whether a revoke of a role or of everything took what was begun at this count of such revokes. A count and no time:
-- two that fall into one microsecond, or a clock set back, cannot mix up what was begun before and what after.
local floor_of = {}
local function swept(role, begun)
  local floor = floor_of[role]
  if not floor then
    local floors = redis.call('HMGET', shard .. 'floors', '*', role)
    floor = math.max(tonumber(floors[1] or 0), tonumber(floors[2] or 0))
    floor_of[role] = floor
  end
  return tonumber(begun or 0) < floor
end

-- Reads a record if it still stands: in this state, taken by no floor, and begun under this epoch. Returns nil or
-- {state, epoch, role, begun, expires_at_ms, sealed}.
local function standing(handle, state, epoch)
  local record = redis.call('HMGET', shard .. 't:' .. handle,
    'state', 'epoch', 'role', 'begun', 'expires_at_ms', 'sealed')
  if record[1] ~= state or record[2] ~= epoch or swept(record[3], record[4]) then
    return nil
  end
  return record
end

-- Returns a grant's live token under this epoch, or nothing: {handle, expires_at_ms, sealed, remaining_ms}.
local function live_token(grant, epoch)
  local handle = redis.call('GET', grant)
  local record = handle and standing(handle, 'live', epoch)
  if record then
    return {handle = handle, expires_at_ms = record[5], sealed = record[6], remaining_ms = record[5] - now_ms}
  end
end

local function indexes(client_id, role)
  return {shard .. 'c:' .. client_id, shard .. 'x', shard .. 'r:' .. role}
end

-- Enters a record until then into what a revoke looks through; 'XX' moves it only if it is there. A time is never moved
-- back: who reads the index from front to end must meet everything that was in it.
local function index(handle, client_id, role, until_ms, only)
  for _, key in ipairs(indexes(client_id, role)) do
    redis.call('ZREMRANGEBYSCORE', key, '-inf', now_ms)
    if only then
      redis.call('ZADD', key, only, 'GT', until_ms, handle)
    else
      redis.call('ZADD', key, 'GT', until_ms, handle)
    end
    local last = redis.call('ZRANGE', key, -1, -1, 'WITHSCORES')
    if last[2] then
      redis.call('PEXPIREAT', key, last[2] - ARGV[1])
    end
  end
end

local function unindex(handle, client_id, role)
  for _, key in ipairs(indexes(client_id, role)) do
    redis.call('ZREM', key, handle)
  end
end

-- Counts for the job that a revocation belongs to, if it does.
local function count(job, what, by)
  if job and job ~= '' and redis.call('HINCRBY', shard .. 'k:' .. job, what, by) == by then
    redis.call('PEXPIRE', shard .. 'k:' .. job, MONTH_MS)
  end
end

-- Appends an entry to the audit stream of the script's keys (audit.py): `who` did `what`; the other fields may be left
-- out. The stream keeps the time, and about this many entries.
local function audit(entry)
  redis.call('XADD', shard .. 'a', 'MAXLEN', '~', 10000, '*',
    'who', entry.who, 'what', entry.what, 'client_id', entry.client_id or '', 'handle', entry.handle or '',
    'detail', entry.detail or '', 'request_id', entry.request_id or '')
end

local function enqueue(handle, priority, expires_at_ms, job)
  redis.call('HSET', shard .. 't:' .. handle, 'revocation', 'queued')
  redis.call('ZADD', shard .. 'q', turn(priority, expires_at_ms), handle)
  count(job, 'queued', 1)
end

-- Ends a revocation as 'confirmed', 'lapsed' or 'dropped'. Its cloud token is worthless or forgotten now; what nobody
-- needs, nobody keeps.
local function finish(handle, what, job, who, request_id)
  local key = shard .. 't:' .. handle
  audit{who = who, request_id = request_id, what = what, client_id = redis.call('HGET', key, 'client_id'),
    handle = handle}
  if redis.call('EXISTS', key) == 1 then
    redis.call('HSET', key, 'revocation', what)
    redis.call('HDEL', key, 'sealed')
  end
  redis.call('ZREM', shard .. 'q', handle)
  redis.call('ZREM', shard .. 'qd', handle)
  if redis.call('ZREM', shard .. 'qf', handle) == 1 then
    count(job, 'failed', -1)
  end
  count(job, what, 1)
end

-- Enters a record among those to be queued.
local function queue_up(fields, turns, handle, priority, expires_at_ms)
  fields[#fields + 1], fields[#fields + 2] = 'revocation', 'queued'
  turns[#turns + 1], turns[#turns + 2] = turn(priority, expires_at_ms), handle
end

-- Lua takes no call with more arguments than this, twice over.
local AT_ONCE = 1000

-- Revokes records. A live one is queued for the cloud; on one still being applied for this is a tombstone: when its
-- cloud tokens arrive, store.lua queues them instead of handing them out. Returns how many this changed; one that is
-- revoked already only moves forward, if this one's priority goes first. Of `how` are the priority, who revokes under
-- which request ID, the job it is counted for, and whether only those below a watermark are meant. What many have in
-- common is written once: this is most of what a large revocation costs.
local function revoke(handles, how)
  local priority, job = how.priority, how.job
  local revoked, turns, gone = 0, {}, {}
  for _, handle in ipairs(handles) do
    local key = shard .. 't:' .. handle
    local record = redis.call('HMGET', key, 'state', 'client_id', 'role', 'expires_at_ms', 'priority', 'begun')
    local state = record[1]
    if not state or how.only_below_watermark and not swept(record[3], record[6]) then
      state = ''
    end
    if state == 'revoked' and priority < tonumber(record[5] or DEVICE) then
      redis.call('HSET', key, 'priority', priority)
      redis.call('ZADD', shard .. 'q', 'XX', turn(priority, record[4] or 0), handle)
    elseif state == 'live' or state == 'applying' then
      local fields = {'state', 'revoked', 'revoked_at_ms', now_ms, 'priority', priority}
      if job and job ~= '' then
        fields[#fields + 1], fields[#fields + 2] = 'job', job
      end
      if state == 'live' then
        queue_up(fields, turns, handle, priority, record[4])
      end
      redis.call('HSET', key, unpack(fields))
      for _, index in ipairs(indexes(record[2], record[3])) do
        gone[index] = gone[index] or {}
        table.insert(gone[index], handle)
      end
      audit{who = how.who, request_id = how.request_id, what = 'revoked', client_id = record[2], handle = handle}
      revoked = revoked + 1
    end
  end
  for index, members in pairs(gone) do
    for first = 1, #members, AT_ONCE do
      redis.call('ZREM', index, unpack(members, first, math.min(#members, first + AT_ONCE - 1)))
    end
  end
  for first = 1, #turns, AT_ONCE do
    redis.call('ZADD', shard .. 'q', unpack(turns, first, math.min(#turns, first + AT_ONCE - 1)))
  end
  if #turns > 0 then
    count(job, 'queued', #turns / 2)
  end
  return revoked
end
