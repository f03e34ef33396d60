-- What every script begins with. ARGV[1] is always the clock's shift in ms: 0 outside tests.

local function now_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2] + ARGV[1] * 1000
end

local now_ms = math.floor(now_us() / 1000)

-- Every key begins with its hash tag, and so does the audit stream of what lies there.
local tag = string.match(KEYS[1], '^{%w+}:')

-- Writes a line of the audit trail (audit.py). The stream keeps its own time, and about this many lines.
local function audit(who, what, client_id, handle, detail)
  redis.call('XADD', tag .. 'a', 'MAXLEN', '~', 10000, '*',
    'who', who, 'what', what, 'client_id', client_id, 'handle', handle, 'detail', detail)
end

-- Uses an assertion up until `until_ms`, when it would be refused as expired anyway; 0: there is none. The same request
-- may use it again: a command that is sent twice is no replay. Returns nothing, or why not: 'used' or 'expired'. That
-- is judged here as well as by the instance, whose clock may have stood still while its machine slept.
local function use(key, request, until_ms)
  if until_ms == 0 then
    return nil
  end
  if until_ms <= now_ms then
    return 'expired'
  end
  local user = redis.call('SET', key, request, 'NX', 'GET', 'PX', math.ceil(until_ms - now_ms))
  if user and user ~= request then
    return 'used'
  end
  return nil
end

-- Revokes one record. A live one is queued for the cloud; on one still being applied for this is a tombstone: when its
-- cloud tokens arrive, store.lua queues them instead of handing them out. Returns whether anything changed: only then it
-- is a line of the audit, of `who`.
local function revoke(record, handle, index, queue, who)
  local state, client_id = unpack(redis.call('HMGET', record, 'state', 'client_id'))
  if state ~= 'live' and state ~= 'applying' then
    return false
  end
  redis.call('HSET', record, 'state', 'revoked', 'revoked_at_ms', now_ms)
  redis.call('ZREM', index, handle)
  if state == 'live' then
    redis.call('HSET', record, 'revocation', 'queued')
    redis.call('ZADD', queue, now_ms, handle)
  end
  audit(who, 'revoked', client_id, handle, '')
  return true
end

